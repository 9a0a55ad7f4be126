"""Do the report's four claims hold? The evidence for each, and an answer by rules fixed beforehand.

The rules are those of `experiments/results/plan.md`. Claims 1, 3 and 4 are about differences paired
by seed. If a claim speaks of both networks or is tested with both pixel scales, its p-value is the
largest of its rows. This is the intersection-union test (Berger, Technometrics 24, 1982), which
needs no correction inside a claim. Holm's correction covers the four claims.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from experiments.analysis import paired as pairs
from experiments.analysis.paired import LEVEL, paired
from experiments.analysis.runs import FINAL, comparable, evaluated, evaluations_of, final
from experiments.groundwork import published
from experiments.groundwork.variants import VARIANTS, WITH_BLOCK
from mnist_jax.model import PLACEMENTS

Row = Mapping[Any, Any]  # of the evidence

SCALES = (
    "report",
    "mnist",
)  # the variants with the two pixel scales that PyTorch's tutorials use
PRIMARY = "running"  # the evaluation on which the answers rest

# Claim 1. "About 92 %" is 91.5 to 92.5. "Nearly 98 %" is at least 97.5, and the two networks' own
# lines end at 98.71 and 98.79 %. So the report's gain is between 97.5 - 92.5 and 98.79 - 91.5.
REPORTED_GAIN = (5.0, 7.29)  # points
# Claim 2. Two times are "about the same" where their ratio lies within 0.8 .. 1.25: the margin of
# bioequivalence (FDA, Statistical Approaches to Establishing Bioequivalence, 2001), symmetric in
# the logarithm.
SAME_RATIO = 1.25
AUTHORS_PROGRAM = "pytorch dataloader"  # the program that the report's claim is about
PROGRAMS = (AUTHORS_PROGRAM, "pytorch eager", "mnist_jax")  # the order in which they are listed
# Claim 3.
EARLY = (1, 2)  # the epochs whose training loss shows how fast a network learns
TARGET_PERCENT = 97.0
# Claim 4. The report's own difference between its two networks, 98.79 - 98.71, is also the margin
# within which they count as equally good.
MARGIN_POINTS = 0.08


TEXT = ["reading", "variant", "evaluation", "where", "unit", "test", "note"]
NUMBERS = ["effect", "low", "high", "low90", "high90", "sd", "p", "p_sign", "ahead", "single_pair"]
COLUMNS = ["claim", *TEXT, "primary", *NUMBERS, "n", "differences"]


def evidence_of(runs: pd.DataFrame, timing: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Makes every comparison that bears on a claim of the report.

    Args:
      runs: results, as `runs.complete_runs` returns them.
      timing: the JSON that `benchmarks.epoch_time` writes; claim 2 needs it.

    Returns:
      A row for each comparison: claim (1 to 4), reading (what is compared), variant, evaluation,
      where (a placement, or the program that was timed), unit, what `paired.paired` returns, test,
      primary (whether the answer rests on the row; the others have no p-values), note, single_pair
      (claim 4: the share of pairs of runs of one and the same network that differ by
      `MARGIN_POINTS` or more). Effects of claim 2 are ratios, and their sd is that of the ratio's
      logarithm.
    """
    rows = [*_gains(runs), *_times(timing), *_speeds(runs), *_orders(runs)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["primary"] = table["primary"].eq(True)  # not every row says it
    table.loc[~table["primary"], ["p", "p_sign"]] = np.nan  # the others have no test
    table[TEXT] = table[TEXT].astype(object).fillna("")
    order = {"kind": "stable", "ignore_index": True}
    return table.sort_values(["claim", "primary"], ascending=[True, False], **order)


def verdicts(evidence: pd.DataFrame) -> pd.DataFrame:
    """Answers the four claims, each with one p-value and in plain words.

    A claim that could not be tested counts as p = 1 in Holm's correction.

    Args:
      evidence: what `evidence_of` returned.

    Returns:
      A row for each claim: claim, statement, effects (the primary rows in words), test, n, p,
      p_holm, power (the chance of finding what the report says, at Holm's level and the observed
      spread; for claim 2 the chance of finding equal times equal; NaN for claim 3, for which the
      report gives no size), verdict (a few words), detail (the numbers that the verdict rests on).
    """
    rows = []
    for number, statement in enumerate(published.CLAIMS, start=1):
        mine = evidence[(evidence["claim"] == number) & evidence["primary"]]
        row = {"claim": number, "statement": statement, "effects": "", "test": "", "n": 0}
        row |= {"p": np.nan, "power": np.nan}
        if len(mine):
            row["effects"] = "; ".join(_in_words(line) for line in mine.to_dict("records"))
            row |= {"test": mine["test"].iloc[0], "n": int(mine["n"].min())}
            row["p"] = mine["p"].max(skipna=False)
            row["power"] = min(_power(number, line) for line in mine.to_dict("records"))
        rows.append(row)
    table = pd.DataFrame(rows)
    adjusted: Any = multipletests(table["p"].fillna(1.0), method="holm")[1]
    table["p_holm"] = np.where(table["p"].isna(), np.nan, adjusted)
    judges = (_judge_gain, _judge_times, _judge_speed, _judge_order)
    judged = [
        ("could not be tested", "")
        if np.isnan(row["p"])
        else judge(evidence[evidence["claim"] == row["claim"]], row["p"], _caveat(row["p_holm"]))
        for judge, row in zip(judges, table.to_dict("records"), strict=True)
    ]
    table["verdict"], table["detail"] = zip(*judged, strict=True)
    columns = ["claim", "statement", "effects", "test", "n", "p", "p_holm", "power"]
    return table[[*columns, "verdict", "detail"]]


# Claim 1: the block raises accuracy from about 92 % to nearly 98 % ----------------------------


def _gains(runs: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for evaluation in evaluations_of(runs):
        mine = evaluated(runs, evaluation)
        for variant in SCALES:
            for block in WITH_BLOCK:
                common = {"claim": 1, "variant": variant, "evaluation": evaluation, "where": block}
                common |= {"unit": "points", "test": "paired t"}
                blocked = final(mine, variant, block)
                equal = paired(blocked - final(mine, variant, "none"))
                primary = evaluation == PRIMARY
                rows.append(common | {"reading": "equal settings", "primary": primary} | equal)
                # The scale of the pixels decides where a baseline without momentum ends.
                slow = "no_momentum" if variant == "report" else "no_momentum_mnist"
                alike = comparable(mine, variant, slow)
                unequal = paired(final(alike, variant, block) - final(alike, slow, "none"))
                rows.append(common | {"reading": "baseline without momentum"} | unequal)
    return _measured(rows)


def _caveat(p_holm: float) -> str:
    """What is said of an answer whose corrected p-value is not below the level."""
    return "" if p_holm < LEVEL else ", but not after the correction for four claims"


def _asked(rows: pd.DataFrame) -> str:
    """What is said of an answer that does not rest on both placements and both pixel scales."""
    found, all_of_them = int(rows["primary"].sum()), len(SCALES) * len(WITH_BLOCK)
    return "" if found == all_of_them else f"asked of {found} of {all_of_them} comparisons: "


def _judge_gain(rows: pd.DataFrame, p: float, caveat: str) -> tuple[str, str]:
    equal = rows[rows["primary"]]
    reported = "{:.1f} to {:.1f}".format(*REPORTED_GAIN)
    unequal = rows[(rows["reading"] != "equal settings") & (rows["evaluation"] == PRIMARY)]
    groups = [(str(name), group) for name, group in unequal.groupby("variant", sort=False)]
    gains = " and ".join(
        f"{_span(group['effect'])} with pixels {VARIANTS[name].pixels}" for name, group in groups
    )
    detail = f"at equal settings the block is worth {_span(equal['effect'])} points"
    detail += f"; the report's words allow {reported}"
    detail += f"; against a baseline without momentum it is {gains}" if groups else ""
    asked = _asked(rows)
    if p >= LEVEL:
        return f"{asked}undecided", detail
    if (equal["effect"] < 0).any():
        return f"{asked}does not hold{caveat}", detail
    if _within_reported(equal).all():
        return f"{asked}holds{caveat}", detail
    fitting = [VARIANTS[name].pixels for name, group in groups if _within_reported(group).all()]
    if fitting:
        needed = f"a baseline without momentum and with pixels {' or '.join(fitting)}"
        return f"{asked}the sign holds{caveat}; the size only against {needed}", detail
    return f"{asked}the sign holds{caveat}; the size does not", detail


def _within_reported(rows: pd.DataFrame) -> pd.Series:
    """Whether the 95 % interval of a gain lies inside what the report's words can mean."""
    low, high = REPORTED_GAIN
    return (rows["low"] >= low) & (rows["high"] <= high)


# Claim 2: the two networks take about the same time -------------------------------------------


def _times(timing: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """A row for each program and thread count that was timed twice or more with both blocks.

    Measurement i of one placement and measurement i of the other come from the same round, so that
    a slow time of the machine meets both.
    """
    seconds: dict[tuple[str, int], dict[str, list[float]]] = {}
    for row in (timing or {"rows": []})["rows"]:
        key = (row["program"], row["threads"])
        seconds.setdefault(key, {})[row["placement"]] = row["epoch_seconds"]
    rows = []
    for (program, threads), measured in sorted(seconds.items(), key=lambda item: _order(*item[0])):
        before, after = (np.log(measured.get(block, [])) for block in WITH_BLOCK)
        rounds = min(len(before), len(after))
        if rounds < 2:
            continue
        row = paired(pd.Series(after[:rounds] - before[:rounds]))
        row["p"] = pairs.p_within(row, np.log(SAME_RATIO))
        for name in ("effect", "low", "high", "low90", "high90"):
            row[name] = np.exp(row[name])
        most = max(threads for name, threads in seconds if name == program)
        common = {
            "claim": 2,
            "reading": "seconds an epoch, after_fc1 / before_fc1",
            "unit": "ratio",
        }
        common |= {"where": f"{program} ({threads} threads)", "test": "two one-sided t-tests"}
        common["note"] = f"smallest margin that passes: {smallest_margin(row):.2f}"
        primary = program == AUTHORS_PROGRAM and threads == most
        rows.append(row | common | {"primary": primary})
    return rows


def _order(program: str, threads: int) -> tuple[int, int]:
    known = program in PROGRAMS
    return (PROGRAMS.index(program) if known else len(PROGRAMS), -threads)


def smallest_margin(row: Row) -> float:
    """The smallest ratio within which the two times would count as the same, at 5 %."""
    return float(max(row["high90"], 1 / row["low90"]))


def time_in_words(row: Row) -> tuple[str, str]:
    """Applies the rule of claim 2 to one program; returns the answer, and the numbers in words."""
    low, high = row["low90"], row["high90"]
    longer = f"{100 * (row['effect'] - 1):+.0f} %"
    numbers = f"{longer} [{100 * (low - 1):+.0f}, {100 * (high - 1):+.0f}]"
    numbers += f", the smallest margin that passes being {smallest_margin(row):.2f}"
    if low > 1 / SAME_RATIO and high < SAME_RATIO:
        return "holds", f"within {SAME_RATIO}: {numbers}"
    if low > SAME_RATIO or high < 1 / SAME_RATIO:
        return "does not hold", f"outside {SAME_RATIO}: {numbers}"
    if high / low < SAME_RATIO:
        return f"at the margin of {SAME_RATIO}", f"at the margin: {numbers}"
    return "undecided", f"not measured precisely enough: {numbers}"


def _judge_times(rows: pd.DataFrame, p: float, caveat: str) -> tuple[str, str]:
    words = [time_in_words(row) for row in rows[rows["primary"]].to_dict("records")]
    verdict, _ = words[0]
    if verdict == "holds":  # only then is its p-value below the level
        verdict += caveat
    shown = rows[rows["primary"] | rows["where"].str.startswith(PROGRAMS)]
    detail = "; ".join(
        f"{row['where']}: after fc1 {time_in_words(row)[1]}" for row in shown.to_dict("records")
    )
    return verdict, detail


# Claim 3: normalising the data speeds up training ---------------------------------------------


def _speeds(runs: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for variant in SCALES:
        alike = comparable(runs, variant, "unnormalised")
        gains = {}
        for place in PLACEMENTS:
            common = {"claim": 3, "variant": variant, "where": place, "test": "paired t"}
            common["evaluation"] = PRIMARY
            loss = {"unit": "log ratio", "primary": place in WITH_BLOCK}
            gain = {
                epochs: early_loss(runs, "unnormalised", place, epochs)
                - early_loss(runs, variant, place, epochs)
                for epochs in (EARLY, *((epoch,) for epoch in EARLY))
            }
            for epochs, difference in gain.items():
                said = f"log training loss saved, epoch {' and '.join(map(str, epochs))}"
                rows.append(common | loss | {"reading": said} | paired(difference))
                loss = {"unit": "log ratio"}  # the others are not primary
            saved, note = epochs_saved(alike, variant, place)
            said = f"epochs to {TARGET_PERCENT:g} % saved"
            rows.append(common | {"reading": said, "unit": "epochs", "note": note} | paired(saved))
            better = final(alike, variant, place) - final(alike, "unnormalised", place)
            said = "final accuracy gained"
            rows.append(common | {"reading": said, "unit": "points"} | paired(better))
            gains[place] = {"log ratio": gain[EARLY], "epochs": saved}
        # This is below 0 if a network with a block gains less than half of what one without gains.
        for place in WITH_BLOCK:
            for unit in ("log ratio", "epochs"):
                left = gains[place][unit] - gains["none"][unit] / 2
                common = {"claim": 3, "variant": variant, "where": place, "evaluation": PRIMARY}
                common |= {"reading": "saved less half of what is saved without a block"}
                rows.append(common | {"unit": unit, "test": "paired t"} | paired(left))
    return _measured(rows)


def early_loss(
    runs: pd.DataFrame, variant: str, placement: str, epochs: Iterable[int] = EARLY
) -> pd.Series:
    """The mean over some epochs of the logarithm of the training loss, by seeds that have them."""
    rows = runs[(runs["variant"] == variant) & (runs["placement"] == placement)]
    epochs = list(epochs)
    rows = rows[rows["epoch"].isin(epochs)]
    logarithm = np.log(rows["train_loss"].astype(float))
    by_seed = rows.assign(logarithm=logarithm).groupby("seed")["logarithm"]
    return by_seed.mean()[by_seed.size() == len(epochs)]


def epochs_to_target(runs: pd.DataFrame, variant: str, placement: str) -> pd.Series:
    """Epochs until test accuracy first reaches `TARGET_PERCENT`, by seed; NaN where it never does.

    Accuracy is measured after each epoch and interpolated linearly between the measurements.
    Before the first one the line starts at 10 %, which guessing gives.
    """
    rows = runs[(runs["variant"] == variant) & (runs["placement"] == placement)]
    curves = rows.pivot(index="seed", columns="epoch", values=FINAL).sort_index(axis=1)
    accuracy = np.column_stack([np.full(len(curves), 10.0), curves.to_numpy(dtype=float)])
    reached = accuracy >= TARGET_PERCENT
    epoch = reached.argmax(axis=1)
    seeds = np.arange(len(accuracy))
    after, before = accuracy[seeds, epoch], accuracy[seeds, epoch - 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        crossed = epoch - (after - TARGET_PERCENT) / (after - before)
    return pd.Series(np.where(reached.any(axis=1), crossed, np.nan), curves.index, dtype=float)


def epochs_saved(runs: pd.DataFrame, variant: str, placement: str) -> tuple[pd.Series, str]:
    """Epochs to the target without normalisation minus epochs with it, by seed, and a note.

    A run that never reaches the target counts as reaching it in the last epoch, on both sides; the
    note says how many runs did not.
    """
    plain = epochs_to_target(runs, "unnormalised", placement)
    normalised = epochs_to_target(runs, variant, placement)
    last = float(runs.loc[runs["variant"] == variant, "epoch"].max())
    missed = [
        f"{name}: {x.isna().sum()} of {len(x)}"
        for name, x in (("unnormalised", plain), (variant, normalised))
        if x.isna().any()
    ]
    note = f"never reached, counted as the last epoch: {', '.join(missed)}" if missed else ""
    return plain.fillna(last) - normalised.fillna(last), note


def _judge_speed(rows: pd.DataFrame, p: float, caveat: str) -> tuple[str, str]:
    speed = rows[rows["primary"]]
    factors = np.exp(speed["effect"])
    epochs = rows[rows["reading"].str.startswith("epochs to")]
    saved = {
        name: _span(epochs[epochs["where"].isin(places)]["effect"])
        for name, places in (("with a block", WITH_BLOCK), ("without one", ("none",)))
    }
    parts = [
        f"at learning rate {VARIANTS['report'].learning_rate:g} the training loss of epochs 1 and "
        f"2 is {factors.min():.2f} to {factors.max():.2f} times as high without normalisation"
    ]
    parts += [
        f"{TARGET_PERCENT:g} % is reached {words} epochs earlier {name}"
        for name, words in saved.items()
        if words
    ]
    half = rows[rows["reading"].str.startswith("saved less half") & (rows["unit"] == "log ratio")]
    both = rows[rows["reading"].str.startswith("log training loss saved, epoch 1 and 2")]
    gaining = both[(both["where"] == "none") & (both["low"] > 0)]["variant"]
    absorbed = half[(half["high"] < 0) & half["variant"].isin(gaining)]
    if len(absorbed):
        names = ", ".join(_network(row) for row in absorbed.to_dict("records"))
        parts.append(f"the block absorbs most of what a network without one gains: {names}")
    detail = "; ".join(parts)
    asked = _asked(rows)
    if p < LEVEL and (speed["effect"] > 0).all():
        return f"{asked}holds{caveat}", detail
    if p < LEVEL and (speed["effect"] < 0).all():
        return f"{asked}does not hold, the opposite is true{caveat}", detail
    if (speed["low"] > 0).any() and (speed["high"] < 0).any():
        return f"{asked}depends on network and scale", detail
    return f"{asked}undecided", detail


# Claim 4: after fc1 is slightly better than before it -----------------------------------------


def _orders(runs: pd.DataFrame) -> list[dict[str, Any]]:
    rows, gaps = [], {}
    for evaluation in evaluations_of(runs):
        mine = evaluated(runs, evaluation)
        common: dict[str, Any] = {"claim": 4, "evaluation": evaluation, "unit": "points"}
        common["test"] = "paired t"
        for variant in SCALES:
            before, after = (final(mine, variant, block) for block in WITH_BLOCK)
            gaps[variant, evaluation] = after - before
            row = common | {"reading": "after_fc1 - before_fc1", "variant": variant}
            row |= {"primary": evaluation == PRIMARY, "single_pair": single_pair(before, after)}
            rows.append(row | paired(after - before))
        if len(comparable(mine, *SCALES)):
            row = common | {"reading": "mnist - half, of after_fc1 - before_fc1"}
            rows.append(row | paired(gaps["mnist", evaluation] - gaps["report", evaluation]))
    for (variant, evaluation), gap in gaps.items():
        if evaluation != PRIMARY:
            row = {"claim": 4, "variant": variant, "evaluation": evaluation, "unit": "points"}
            row |= {"reading": f"{evaluation} - {PRIMARY}, of after_fc1 - before_fc1"}
            rows.append(row | {"test": "paired t"} | paired(gap - gaps[variant, PRIMARY]))
    return _measured(rows)


def single_pair(*networks: pd.Series) -> float:
    """The share of pairs of runs of one network that differ by `MARGIN_POINTS` or more.

    It is the mean over the networks. A report that trains two equally good networks once each would
    find one of them better by this margin with the same probability.
    """
    shares = []
    for accuracies in networks:
        first, second = np.triu_indices(len(accuracies), k=1)
        values = accuracies.to_numpy()
        if len(first):
            apart = np.abs(values[first] - values[second]) >= MARGIN_POINTS - 1e-9
            shares.append(float(apart.mean()))
    return float(np.mean(shares)) if shares else np.nan


def order_in_words(row: Row) -> tuple[str, str]:
    """Applies the rule of claim 4 to one pixel scale and evaluation.

    Returns:
      "better", "worse", "the same" or "undecided", and a part of a sentence with the numbers.
    """
    numbers = _numbers(row)
    if np.isnan(row["low"]):
        return "undecided", f"{row['effect']:+.3f} without an interval"
    if row["low"] > 0:
        less = ", by less than reported" if row["high90"] < MARGIN_POINTS else ""
        return "better", f"better{less}, {numbers}"
    if row["high"] < 0:
        return "worse", f"worse, {numbers}"
    if row["low90"] > -MARGIN_POINTS and row["high90"] < MARGIN_POINTS:
        return "the same", f"the same within {MARGIN_POINTS}, {numbers}"
    most, least = max(row["high90"], 0), max(-row["low90"], 0)
    return "undecided", f"better by at most {most:.2f} or worse by at most {least:.2f}, {numbers}"


def _judge_order(rows: pd.DataFrame, p: float, caveat: str) -> tuple[str, str]:
    gaps = rows[rows["reading"] == "after_fc1 - before_fc1"].to_dict("records")
    main = [row for row in gaps if row["evaluation"] == PRIMARY]
    return _order_verdict(rows, main, caveat), _order_detail(rows, gaps, main)


def _order_verdict(rows: pd.DataFrame, main: list[dict[Any, Any]], caveat: str) -> str:
    words = [order_in_words(row)[0] for row in main]
    if len(words) < len(SCALES):
        return f"asked with one pixel scale only, where it is {words[0]}"
    if len(set(words)) > 1:
        contrasts = rows[
            rows["reading"].str.startswith("mnist - half") & (rows["evaluation"] == PRIMARY)
        ]
        if contrasts.empty:
            return "depends on the scale, though no runs of the two can be compared"
        contrast = contrasts.iloc[0].to_dict()
        shown = contrast["low"] > 0 or contrast["high"] < 0
        unlike = "" if shown else ", which are not shown to differ"
        return f"depends on the scale: mnist less half {_numbers(contrast)}{unlike}"
    if words[0] in ("the same", "undecided"):
        return words[0]
    # The 95 % interval has excluded 0, so the p-value before the correction is below the level.
    return ("holds" if words[0] == "better" else "does not hold, before fc1 is better") + caveat


def _order_detail(
    rows: pd.DataFrame, gaps: list[dict[Any, Any]], main: list[dict[Any, Any]]
) -> str:
    parts = [
        f"pixels {VARIANTS[row['variant']].pixels}, {row['evaluation']} statistics: "
        f"{order_in_words(row)[1]}"
        for row in gaps
    ]
    turns = rows[rows["reading"].str.contains(f" - {PRIMARY}, ")]
    for row in turns[(turns["low"] > 0) | (turns["high"] < 0)].to_dict("records"):
        parts.append(
            f"the difference depends on the evaluation: {row['evaluation']} less {PRIMARY} "
            f"{_numbers(row)} with pixels {VARIANTS[row['variant']].pixels}"
        )
    for row in main:
        needed = pairs.pairs_needed(MARGIN_POINTS, row["sd"])
        count = f"{needed:,}" if needed else f"more than {pairs.MOST_PAIRS:,}"
        parts.append(
            f"pixels {VARIANTS[row['variant']].pixels}: after fc1 is ahead in "
            f"{row['ahead']:.0%} of pairs, two runs of one network differ by {MARGIN_POINTS} or "
            f"more in {row['single_pair']:.0%}, and {count} pairs would give {pairs.POWER:.0%} "
            f"power at the report's {MARGIN_POINTS:+}"
        )
    return "; ".join(parts)


# All of them ----------------------------------------------------------------------------------


def _measured(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that rest on at least one seed, since a study need not have every variant."""
    return [row for row in rows if row["n"]]


def _power(claim: int, row: Row) -> float:
    """The power of one row's test, as `verdicts` explains it."""
    if claim == 3 or row["n"] < 2 or not row["sd"] > 1e-9:
        return np.nan
    if claim == 2:
        return pairs.power_within(np.log(SAME_RATIO), row["sd"], row["n"])
    effect = REPORTED_GAIN[0] if claim == 1 else MARGIN_POINTS
    return pairs.power(effect, row["sd"], row["n"])


def _numbers(row: Row) -> str:
    """An effect with its 95 % interval, as in `+0.310 [+0.270, +0.350]`."""
    return f"{row['effect']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def _network(row: Row) -> str:
    """Where something was measured, as in `before_fc1 with pixels half`."""
    pixels = f" with pixels {VARIANTS[row['variant']].pixels}" if row["variant"] else ""
    return f"{row['where'] or 'after_fc1 - before_fc1'}{pixels}"


def _in_words(row: Row) -> str:
    """Where something was measured, and its effect with its 95 % interval."""
    if np.isnan(row["effect"]):
        return f"{_network(row)} not computed"
    form = "{:.2f}" if row["unit"] == "ratio" else "{:+.2f}"
    effect, low, high = (form.format(row[key]) for key in ("effect", "low", "high"))
    return f"{_network(row)} {effect} [{low}, {high}] {row['unit']}"


def _span(effects: Iterable[float]) -> str:
    """Smallest and largest effect, as in `+0.31 to +0.44`; an empty string if there is none."""
    known = [value for value in effects if not np.isnan(value)]
    if not known:
        return ""
    ends = sorted({f"{value:+.2f}" for value in (min(known), max(known))}, key=float)
    return " to ".join(ends)
