"""The study's statistics: from a table of results to the tables that the READMEs show.

A result is one row of a table. It has the columns variant (a key of
`groundwork.variants.VARIANTS`), placement, seed, epoch and the four metrics of `published.METRICS`,
for which the test images were normalised with running statistics. In a variant that held out
training images, those stand in the place of the test images. Further columns such as
`batch_test_loss` hold loss and accuracy of the test images in the two other evaluations of
`groundwork.evaluation.EVALUATIONS`. The answers to each test image after the last epoch are kept
apart, as `per_class.Answers`. Equal seeds saw equal batches in equal order, whatever the placement
and the variant, so comparisons are paired by seed. Nothing here trains, draws or prints.

    runs          which runs count, and how a network was evaluated
    measures      what is measured of a run, and weighted sums of it by seed
    paired        intervals, tests and their power of differences by seed
    reproduction  whether the report's numbers look like ours
    likelihood    which choices of what the report does not state made its curves
    evidence      every comparison that bears on the report's four claims
    claims        whether they hold, by rules that were fixed beforehand
    block         why the block helps
    per_class     the report's per-class percentages, and the images that they were measured on
    tables        all of these tables, as Markdown and as JSON

What cannot be computed, because seeds, placements or variants are missing, is left empty (NaN)
or left out, and `Tables.notes` says so.
"""

import pandas as pd

from experiments.analysis.block import chosen_rates, rates_in
from experiments.analysis.measures import measures_of
from experiments.analysis.per_class import Answers
from experiments.analysis.runs import complete_runs, evaluated
from experiments.analysis.tables import Tables, analyse, summary, to_markdown
from mnist_jax.model import Placement

__all__ = [
    "Answers",
    "Tables",
    "analyse",
    "best_rates",
    "complete_runs",
    "evaluated",
    "summary",
    "to_markdown",
]


def best_rates(results: pd.DataFrame) -> dict[Placement, float]:
    """The learning rate that does best on held-out images, for each placement."""
    return rates_in(chosen_rates(measures_of(complete_runs(results))))
