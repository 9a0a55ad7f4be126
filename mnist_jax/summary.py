"""Lists a network layer by layer: shapes, parameters and multiply-adds."""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Layer(NamedTuple):
    """One row of a network's summary."""

    name: str
    shape: tuple[int, ...]  # of its output for one image, [F] or [C, H, W]
    parameters: int
    multiply_adds: int  # for one image, the products of its convolution or dense layer


def summary(model: nn.Module) -> list[Layer]:
    """Lists the layers of a `LeNet` in the order of computation, without computing anything.

    What the block is made of must be layers, not modules of layers.
    """
    calls: list[tuple[tuple[str, ...], tuple[int, ...]]] = []

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        if context.method_name == "__call__":
            calls.append((context.module.path, output.shape))
        return output

    images = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.uint8)
    with nn.intercept_methods(record):
        params = jax.eval_shape(
            functools.partial(model.init, train=False), jax.random.key(0), images
        )["params"]
    return [
        _layer(
            path, shape[:-1], functools.reduce(lambda tree, name: tree.get(name, {}), path, params)
        )
        for path, shape in calls
        if path and path[-1] != "resnet_block"
    ]


def _layer(path: tuple[str, ...], shape: tuple[int, ...], params: Mapping[str, Any]) -> Layer:
    places = math.prod(shape[1:])  # the number of places where a kernel is applied
    if path in (("conv1",), ("conv2",)):
        places *= 4  # because the output of these stages is pooled, four places to one
    products = params["kernel"].size * places if "kernel" in params else 0
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Layer("/".join(path), shape, size, products)
