"""LeNet with one residual block on MNIST, as pure functions over pytrees.

`data` supplies the images, which `tfds` and `sources` get, and `digits` makes such images of any
picture; `kernels` holds the arithmetic, `layers` and `model` the networks, which `summary` lists;
`metrics`, `train` and `parallel` hold the training, and `compilation` XLA's options for it;
`store` and `torch_weights` put states and weights on disk. Importing the package
changes nothing in the process.
"""
