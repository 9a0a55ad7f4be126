"""LeNet with one residual block on MNIST, as pure functions over pytrees.

`data` and `sources` supply the images, `kernels` the arithmetic, `layers` and `model` the networks,
`metrics`, `train` and `parallel` the training, `torch_weights` the way to PyTorch and back.

Importing this package sets the XLA flags that the CPU kernels count on (`xla_flags`). XLA reads
them once, when its first device starts, so import it before the first JAX computation.
"""

from mnist_jax import xla_flags

xla_flags.set_for_cpu()
