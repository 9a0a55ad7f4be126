"""Every figure of the project, drawn from results; nothing here trains or computes a statistic.

A study's figures are in `experiments.figures.study`. This package does not import that module,
because the import takes a second and a run does not need it.

For a path with a suffix one file is written; for a path without one a PNG and an SVG are. The same
input and the same version of matplotlib give the same bytes. Nothing here uses pyplot, so it does
not matter which backend matplotlib is told to use.
"""

import os
import sys
from contextlib import suppress

# MPLBACKEND says where pyplot would draw, and matplotlib cannot be imported if it names a backend
# that is not installed. Commands that a notebook starts inherit the notebook's.
if "matplotlib" not in sys.modules and "MPLBACKEND" in os.environ:
    backend = os.environ.pop("MPLBACKEND")
    import matplotlib

    os.environ["MPLBACKEND"] = backend
    with suppress(ValueError):
        matplotlib.rcParams["backend"] = backend

from experiments.figures.run import confusion, curves, mistakes

__all__ = ["confusion", "curves", "mistakes"]
