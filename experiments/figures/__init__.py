"""Every figure of the project, drawn from results; nothing here trains or computes a statistic.

A study's figures are in `experiments.figures.study`, which takes a second to import, and a run does
not need them.

A path with a suffix gives that one file; a path without one gives a PNG and an SVG beside each
other. Both are the same, byte for byte, for the same input and the same version of matplotlib.
Nothing here uses pyplot, so it does not matter which backend matplotlib is told to use.
"""

import os
import sys
from contextlib import suppress

# MPLBACKEND says where pyplot would draw, and matplotlib cannot be imported where it names what is
# not installed. Notebooks hand theirs down to every command that they start.
if "matplotlib" not in sys.modules and "MPLBACKEND" in os.environ:
    backend = os.environ.pop("MPLBACKEND")
    import matplotlib

    os.environ["MPLBACKEND"] = backend
    with suppress(ValueError):
        matplotlib.rcParams["backend"] = backend

from experiments.figures.run import confusion, curves, mistakes
from experiments.figures.timing import epoch_times

__all__ = ["confusion", "curves", "epoch_times", "mistakes"]
