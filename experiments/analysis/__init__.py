"""The study's statistics: from a table of results to the tables that the READMEs show.

A result is one line of `results.jsonl`: variant, placement, seed, epoch, the four metrics of
`published.METRICS`, and the confusion matrix of the test split, row = label, column = prediction.
Equal seeds saw equal batches in equal order, whatever the placement and the variant, so
comparisons are paired by seed. Nothing here trains, draws or prints.

    runs          which runs count
    reproduction  whether the report's numbers look like ours
    settings      which of the settings that the report does not state made its curves
    claims        whether its four claims hold
    per_class     its per-class percentages, and of which images they are
    tables        all of it, as Markdown and as JSON

What cannot be computed, because seeds, placements or variants are missing, is left empty (NaN)
and named in `Tables.notes`.
"""

from experiments.analysis.per_class import pooled_confusion
from experiments.analysis.runs import complete_runs
from experiments.analysis.tables import Tables, analyse, summary, to_markdown

__all__ = ["Tables", "analyse", "complete_runs", "pooled_confusion", "summary", "to_markdown"]
