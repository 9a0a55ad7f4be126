"""LeNet with one residual block on MNIST, as pure functions over pytrees.

`data` supplies the images; `kernels` holds the arithmetic, `layers` and `model` the networks;
`metrics`, `train` and `parallel` hold the training; `checkpoint` and `torch_weights` put states and
weights on disk. Importing the package changes nothing in the process.
"""
