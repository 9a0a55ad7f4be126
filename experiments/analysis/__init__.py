"""The study's statistics: from a table of results to the tables that the READMEs show.

A result is one row of a table. It has the columns variant (a key of
`groundwork.variants.VARIANTS`), placement, seed, epoch and the four metrics of
`published.METRICS`, for which the test images were normalised with running statistics. In a variant
that held out training images, those stand in the place of the test images. Further columns such as
`batch_test_loss` hold loss and accuracy of the test images in the two other evaluations of
`groundwork.variants.EVALUATIONS`. The answers to each test image after the last epoch are kept
apart, as `per_class.Answers`. Equal seeds saw equal batches in equal order, whatever the placement
and the variant, so comparisons are paired by seed. Nothing here trains, draws or prints.

    runs          which runs count, and how a network was evaluated
    reproduction  whether the report's numbers look like ours
    settings      which of the settings that the report does not state made its curves
    paired        differences by seed: intervals, tests and their power
    claims        whether the report's four claims hold
    block         why the block helps
    per_class     the report's per-class percentages, and the images that they were measured on
    tables        all of these tables, as Markdown and as JSON

What cannot be computed, because seeds, placements or variants are missing, is left empty (NaN)
or left out, and `Tables.notes` says so.
"""

from experiments.analysis.per_class import Answers, pooled_confusion
from experiments.analysis.runs import complete_runs, evaluated
from experiments.analysis.tables import Tables, analyse, summary, to_markdown

__all__ = [
    "Answers",
    "Tables",
    "analyse",
    "complete_runs",
    "evaluated",
    "pooled_confusion",
    "summary",
    "to_markdown",
]
