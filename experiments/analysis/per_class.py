"""How the report's per-class percentages lie among ours, and on which images they were measured.

The percentages are whole numbers, six of the twenty are 100, and their mean is 97.8, while the same
networks score 98.7 on all images. The PyTorch tutorial "Training a Classifier"
(beginner_source/blitz/cifar10_tutorial.py, until 2021) has a per-class loop, `for i in range(4)`,
written for batches of four, that counts the first four images of each batch, and prints with
`%2d`, which cuts the decimals off. With batches of 64 it counts 628 images. The tutorial has the
report's layers, learning rate, format and, unstated in the report, momentum 0.9 and normalisation
(0.5, 0.5); it never calls `model.eval()`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats

from experiments.analysis.reproduction import scale_of
from experiments.groundwork import published
from experiments.groundwork.variants import CANDIDATES

BATCH = 64

ACCURACIES_SHOWN = "evaluation placement digit images mean:.2f sd:.2f low:.2f high:.2f"
PRINTED_SHOWN = "evaluation placement digit images mean:.1f low:.0f high:.0f published:.0f inside"
LOADERS_SHOWN = "evaluation loader can_print:.1% log10_probability:.1f behind:.1f"
SAMPLING_SHOWN = (
    "evaluation sampling printed images:, step_percent:.1f reachable total mean_percent:.1f "
    "hundreds:.1f p_low_before_fc1:.2f p_low_after_fc1:.2f log10_probability:.1f place among"
)
BASELINES_SHOWN = "variant n all_images:.2f sampled:.2f about_92_all:.0% about_92_sampled:.0%"


class Answers(NamedTuple):
    """What the networks of one variant and placement said of the test images after the last epoch.

    `n` is the number of seeds and `N` that of the test images, in the order of the original files.
    """

    variant: str
    placement: str
    evaluation: str  # a key of `groundwork.evaluation.EVALUATIONS`
    seeds: np.ndarray  # [n]
    confusion: np.ndarray  # [n, 10, 10] images, row = label, column = prediction
    correct: np.ndarray  # [n, ceil(N / 8)] uint8, `np.packbits` of whether each image was right


def samplings(size: int) -> dict[str, np.ndarray]:
    """Samples of a test split of `size` images, as masks `[N]` in the order of the files."""
    place = np.arange(size)
    each = {k: f"first {k} of each batch" for k in (2, 4, 8, 16)} | {1: "first of each batch"}
    return {each[k]: place % BATCH < k for k in (1, 2, 4, 8, 16)} | {
        "first batch": place < BATCH,
        "first 1,000 images": place < 1000,
        "all images": place < size,
    }


FOUR = "first 4 of each batch"  # the tutorial's sample, whose percentages it cuts off
BATCHES = (32, 64, 128, 256, 1000)  # sizes of a test batch that are tried
SHUFFLES = 2000  # random samples that stand for a test loader that shuffles
PRINTED = {"cut off": np.floor, "rounded": np.rint}  # how a percentage became a whole number


def accuracies(answers: Iterable[Answers]) -> pd.DataFrame:
    """Accuracy by digit over the whole test split after the last epoch.

    Only answers of the variant `report` count.

    Returns:
      A row for each evaluation, placement and digit, in percent: mean over seeds, sd, low and high
      (95 % prediction interval for one new run, computed on the scale of the logit), images, n. One
      seed gives no interval.
    """
    tables = []
    for answer in answers:
        if answer.variant != "report":
            continue
        images = answer.confusion.sum(axis=2)  # [n, 10]
        share = np.diagonal(answer.confusion, axis1=1, axis2=2) / images
        n = len(share)
        table = pd.DataFrame(
            {
                "evaluation": answer.evaluation,
                "placement": answer.placement,
                "digit": range(10),
                "images": images[0],
            }
        )
        table["mean"], table["n"] = 100 * share.mean(axis=0), n
        table[["sd", "low", "high"]] = np.nan
        if n > 1:
            half = 0.5 / images  # the share of half an image, so that no logit is infinite
            values = special.logit(np.clip(share, half, 1 - half))
            scale = scale_of(values, np.full(10, 1e-9))
            low, high = stats.t.interval(0.95, n - 1, values.mean(axis=0), scale)
            table["sd"] = 100 * share.std(axis=0, ddof=1)
            table["low"], table["high"] = 100 * special.expit(low), 100 * special.expit(high)
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def printed_percentages(answers: Iterable[Answers], labels: np.ndarray) -> pd.DataFrame:
    """The report's percentages beside those that our runs print of the tutorial's 628 images.

    Returns:
      A row for each evaluation, placement and digit: evaluation, placement, digit, images (of the
      sample), mean, low and high (mean and 2.5 and 97.5 % quantiles of the whole percentages that
      our runs print), published, inside.
    """
    mask = samplings(len(labels))[FOUR]
    sample = np.bincount(labels[mask], minlength=10)
    tables = []
    for evaluation, networks in _networks(answers, labels):
        for placement, right in networks.items():
            percent = _percent(_mistakes(right, labels, mask), sample, np.floor)
            low, high = np.quantile(percent, (0.025, 0.975), axis=0, method="inverted_cdf")
            target = np.array(published.PER_CLASS_ACCURACY_PERCENT[placement])
            table = {"evaluation": evaluation, "placement": placement, "digit": range(10)}
            table |= {"images": sample, "mean": percent.mean(axis=0), "low": low, "high": high}
            table |= {"published": target, "inside": (low <= target) & (target <= high)}
            tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def sampling(answers: Iterable[Answers], labels: np.ndarray) -> pd.DataFrame:
    """Finds out on which part of the test split the report's per-class percentages were measured.

    For each sampling, our own runs' answers to exactly its images give percentages, which are cut
    off or rounded to whole numbers. A percentage is reachable if some number of mistakes on the
    sample's images of the digit prints as it. The probability of exactly the report's percentages
    treats the mistakes on a digit as negative binomial, with the mean and variance of our runs
    (Poisson if they vary less), and digits and networks as independent. Since every sampling is
    asked for the same twenty numbers, these probabilities can be compared. Each of our own runs is
    scored by the others in the same way, and `place` is the report's place among them, 1 being the
    least probable.

    Args:
      answers: those of all runs; only those of the variant `report` with a block count.
      labels: `[N]`, in the order of the files.

    Returns:
      A row for each evaluation, sampling and way of printing: evaluation, sampling, printed,
      images, step_percent (one image of a digit, median over digits), reachable (how many of the
      report's `total` numbers are), total, mean_percent (mean of ten printed percentages, over our
      runs), hundreds (mean number of digits that print as 100 %), p_low_<placement> (share of our
      runs with a mean as low as the report's), log10_probability (-inf if a number is not
      reachable), place, among (how many are compared). It is empty unless both networks have
      answers of three seeds.
    """
    rows = []
    for evaluation, right in _networks(answers, labels):
        for name, mask in samplings(len(labels)).items():
            wrong = {place: _mistakes(x, labels, mask) for place, x in right.items()}
            sample = np.bincount(labels[mask], minlength=10)
            for printed, whole in PRINTED.items():
                row = {"evaluation": evaluation, "sampling": name, "printed": printed}
                rows.append(row | _printed_by(wrong, sample, whole))
    return pd.DataFrame(rows)


def _printed_by(
    wrong: Mapping[str, np.ndarray], sample: np.ndarray, whole: np.ufunc
) -> dict[str, Any]:
    """The numbers of a row of `sampling`.

    Args:
      wrong: mistakes of our runs in the sample by digit, `[n, 10]`, by placement.
      sample: images of each digit, `[10]`.
      whole: how a percentage becomes a whole number.
    """
    possible = _percent(np.arange(sample.max() + 1)[:, None], sample, whole)  # [K, 10]
    runs = len(next(iter(wrong.values())))
    row: dict[str, Any] = {"images": int(sample.sum())}
    row |= {"step_percent": float(np.median(100 / np.maximum(sample, 1)))}
    row |= {"reachable": 0, "total": 10 * len(wrong)}
    percents, report, own = [], 0.0, np.zeros(runs)
    for placement, mistakes in wrong.items():
        percent = _percent(mistakes, sample, whole)
        target = np.array(published.PER_CLASS_ACCURACY_PERCENT[placement])
        row["reachable"] += int((possible == target).any(axis=0).sum())
        low = percent.mean(axis=1) <= target.mean() + 1e-9
        row[f"p_low_{placement}"] = float(low.mean())
        percents.append(percent)
        report += _log_probability(possible == target, mistakes)
        others = np.stack([np.delete(mistakes, i, axis=0) for i in range(runs)])  # [n, n - 1, 10]
        own += _log_probability(possible == percent[:, None], others)
    row["mean_percent"] = float(np.mean(percents))
    row["hundreds"] = float((np.array(percents) == 100).sum(axis=2).mean())
    row["log10_probability"] = float(report / np.log(10))
    return row | {"place": 1 + int((own < report).sum()), "among": runs + 1}


def loaders(answers: Iterable[Answers], labels: np.ndarray) -> pd.DataFrame:
    """How the report's test images were loaded, if it printed the first four of each batch.

    A loader in the order of the file shows the same images to both networks. One that shuffles
    shows other images at each evaluation, so the probability of a network's ten percentages is
    the mean over random samples of as many images. Our own answers with batch statistics are those
    of batches of 64 in the order of the file, whatever the loader.

    Returns:
      A row for each evaluation and loader: evaluation, loader, can_print (share of the loader's
      samples that can print all twenty percentages), log10_probability (of exactly these), behind
      (the best loader's less this one's). Empty where `sampling` is.
    """
    rows, place = [], np.arange(len(labels))
    for evaluation, networks in _networks(answers, labels):
        for size in BATCHES:
            mask = place % size < 4
            found = [_of_sample(mask, labels, *network) for network in networks.items()]
            row = {"evaluation": evaluation, "loader": f"file order, batches of {size}"}
            row |= {"can_print": float(np.isfinite(found).all())}
            rows.append(row | {"log10_probability": float(np.sum(found))})
        each = np.array([_of_random_samples(labels, *network) for network in networks.items()])
        row = {"evaluation": evaluation, "loader": f"shuffled, batches of {BATCH}"}
        row |= {"can_print": float(np.isfinite(each).mean(axis=1).prod())}
        with np.errstate(divide="ignore"):
            rows.append(row | {"log10_probability": np.log10((10**each).mean(axis=1)).sum()})
    table = pd.DataFrame(rows)
    if len(table):
        best = table.groupby("evaluation")["log10_probability"].transform("max")
        table["behind"] = best - table["log10_probability"]
    return table


def _of_random_samples(labels: np.ndarray, placement: str, right: np.ndarray) -> list[float]:
    """`_of_sample` of `SHUFFLES` random samples that are as large as the tutorial's."""
    rng = np.random.default_rng(0)
    images = [np.flatnonzero(labels == digit) for digit in range(10)]
    count = int(samplings(len(labels))[FOUR].sum())
    # The counts of the digits first, because most of them cannot print the percentages.
    samples = rng.multivariate_hypergeometric([len(x) for x in images], count, size=SHUFFLES)
    found = []
    for sample in samples:
        chosen = np.zeros(0, int)
        if _fits(sample, placement).any(axis=0).all():
            both = zip(images, sample, strict=True)
            chosen = np.concatenate([rng.choice(x, k, replace=False) for x, k in both])
        found.append(_of_sample(chosen, labels, placement, right) if len(chosen) else -np.inf)
    return found


def _of_sample(chosen: np.ndarray, labels: np.ndarray, placement: str, right: np.ndarray) -> float:
    """Log10 probability that a network prints the report's percentages of a sample, cut off."""
    fits = _fits(np.bincount(labels[chosen], minlength=10), placement)
    return float(_log_probability(fits, _mistakes(right, labels, chosen)) / np.log(10))


def _fits(sample: np.ndarray, placement: str) -> np.ndarray:
    """Which numbers of mistakes print as the report's percentages, `[K, 10]`."""
    possible = _percent(np.arange(sample.max() + 1)[:, None], sample, np.floor)
    return possible == np.array(published.PER_CLASS_ACCURACY_PERCENT[placement])


def baselines(answers: Iterable[Answers], labels: np.ndarray) -> pd.DataFrame:
    """Is "about 92 %" without a block a mean of sampled percentages, as "nearly 98 %" may be?

    The report does not say on which images its baseline reached 92 %. Its two lists of per-class
    percentages have the mean 97.8, which may be its "nearly 98 %".

    Returns:
      A row for each variant that could be the report's: variant, n, all_images and sampled (mean
      over our runs without a block: accuracy on the test split, and mean of ten percentages of the
      first four images of each batch, cut off), about_92_all and about_92_sampled (shares of the
      runs for which that is 91.5 to 92.5).
    """
    rows = []
    for answer in answers:
        if answer.placement != "none" or answer.variant not in CANDIDATES:
            continue
        if answer.evaluation != "running":  # without a block the others would be the same
            continue
        right = _unpacked(answer, len(labels))
        mask = samplings(len(labels))[FOUR]
        sample = np.bincount(labels[mask], minlength=10)
        printed = _percent(_mistakes(right, labels, mask), sample, np.floor).mean(axis=1)
        everything = 100 * right.mean(axis=1)
        rows.append(
            {
                "variant": answer.variant,
                "n": len(right),
                "all_images": everything.mean(),
                "sampled": printed.mean(),
                "about_92_all": float(about_92(everything).mean()),
                "about_92_sampled": float(about_92(printed).mean()),
            }
        )
    return pd.DataFrame(rows)


def about_92(percent: Any) -> Any:
    """Whether each of some percentages, any array, is within half a point of the report's 92."""
    # Percentages such as 91.5 are rounded sums, hence the margin.
    return np.abs(percent - published.BASELINE_ACCURACY_PERCENT) <= 0.5 + 1e-9


def _networks(
    answers: Iterable[Answers], labels: np.ndarray
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """For each evaluation whether the networks with a block read each image, `[n, N]`.

    Only evaluations that both networks of the report have, with three seeds or more.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for answer in answers:
        if answer.variant == "report" and answer.placement in published.HISTORY:
            right = _unpacked(answer, len(labels))
            found.setdefault(answer.evaluation, {})[answer.placement] = right
    for evaluation, networks in found.items():
        shared = min(len(right) for right in networks.values())
        if len(networks) == len(published.HISTORY) and shared >= 3:
            yield evaluation, {place: right[:shared] for place, right in networks.items()}


def _unpacked(answer: Answers, size: int) -> np.ndarray:
    """Whether each image was right, `[n, N]` of booleans."""
    return np.unpackbits(answer.correct, axis=1, count=size).astype(bool)


def _mistakes(right: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Mistakes in a sample by digit, `[n, 10]`."""
    digits = (labels[chosen][:, None] == np.arange(10)).astype(np.float32)  # [images, 10]
    return ((~right[:, chosen]).astype(np.float32) @ digits).astype(np.int64)  # counts are exact


def _percent(wrong: np.ndarray, sample: np.ndarray, whole: np.ufunc) -> np.ndarray:
    """Whole percentages that `wrong` mistakes `[..., 10]` give; NaN beyond the sample's size."""
    with np.errstate(invalid="ignore", divide="ignore"):
        percent = whole(100 * (sample - wrong) / sample)
    return np.where(wrong <= sample, percent, np.nan)


def _log_probability(fits: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Log probability that a new run prints ten given percentages, as `sampling` explains.

    Args:
      fits: whether a number of mistakes on a digit prints as its percentage, `[..., K, 10]`, for 0
        to K - 1 mistakes.
      wrong: mistakes of n other runs, `[..., n, 10]`.
    """
    n = wrong.shape[-2]
    mean = np.maximum(wrong.mean(axis=-2), 0.5 / n)
    variance = np.maximum(wrong.var(axis=-2, ddof=1) * (1 + 1 / n), mean * (1 + 1e-6))
    count = np.arange(fits.shape[-2])[:, None]
    each = [count, *(x[..., None, :] for x in (mean**2 / (variance - mean), mean / variance))]
    chance = np.zeros(fits.shape)  # of numbers that do not fit none is asked, as there are many
    chance[fits] = stats.nbinom.pmf(*(np.broadcast_to(x, fits.shape)[fits] for x in each))
    with np.errstate(divide="ignore"):
        return np.log(chance.sum(axis=-2)).sum(axis=-1)
