"""The options with which XLA compiles our programs on CPU, each with its reason.

They are options of one `jax.jit`, so they hold for our programs and for nothing else in the
process, and it does not matter when JAX was started. JAX refuses a jit with options inside another
jit: options belong on the outermost one, and `programs.compiled` and `parallel.over_seeds` put them
there.
"""

import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax

# Options for every release of jaxlib that was tried (0.10.2 and 0.12.0.1).
_COMMON: dict[str, str | bool] = {
    # Keeps `optimization_barrier` until code is emitted. Without it XLA:CPU drops the barriers of
    # kernels.py first, and then fuses a pooled image into each of the nine slices that read it.
    "xla_disable_hlo_passes": "cse_barrier_expander",
    # Allows vectors of 16 floats if the processor has them; the default stops at 8.
    "xla_cpu_prefer_vector_width": "512",
}
# For programs that run once: what counts is the time to compile, 0.5 s for the initial weights in
# place of 0.7 s.
_QUICKLY: dict[str, str | bool] = {"xla_backend_optimization_level": "1"}
_BY_RELEASE: dict[tuple[int, ...], dict[str, str | bool]] = {
    (0, 10): {
        # The older emitters vectorise loops over slices; the newer ones compute an index for each
        # element: the maximum of four [6, 12, 12, 32] arrays takes 107 us with them and 7 without.
        "xla_cpu_use_fusion_emitters": False,
        # The default without fused reductions, in which large sums are wrong or crash: jax issues
        # 39103 and 40412.
        "xla_cpu_experimental_ynn_fusion_type": (
            "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
        ),
    },
    (0, 12): {},
}


def options(platform: str | None = None, *, quickly: bool = False) -> dict[str, str | bool]:
    """The options for `jax.jit(..., compiler_options=...)`.

    Args:
      platform: `cpu`, `gpu`, ...; None means the platform that JAX computes on by default.
      quickly: whether to compile in less time, at the cost of a slower program.

    Returns:
      The value of each option by its name. It is empty unless the platform is `cpu` and the options
      were tried on the installed jaxlib. Options that the user has set in `XLA_FLAGS` are left out.
    """
    release = tuple(map(int, version("jaxlib").split(".")[:2]))
    if (platform or jax.default_backend()) != "cpu" or release not in _BY_RELEASE:
        return {}
    wanted = _COMMON | _BY_RELEASE[release] | (_QUICKLY if quickly else {})
    flags = os.environ.get("XLA_FLAGS", "").split()
    users = {flag.partition("=")[0].removeprefix("--") for flag in flags}
    return {name: value for name, value in wanted.items() if name not in users}


def jit(function: Callable[..., Any], *, quickly: bool = False, **settings: Any) -> Any:
    """`jax.jit` with `options(quickly=...)`; its result cannot be called inside another jit.

    The user's settings of JAX do not change what is computed: while the function is traced, those
    that would change random numbers or the precision of products have JAX's own defaults.
    """
    pinned = jax.threefry_partitionable(True)(jax.default_matmul_precision(None)(function))
    return jax.jit(pinned, compiler_options=options(quickly=quickly), **settings)
