"""Did a method help? Accuracies of runs that share a seed -> verdicts and the numbers behind them.

A verdict is a paired t-interval over seeds: the runs of one seed share their training images and
their length and differ in the augmentation only. It claims nothing that the interval does not
support. Single classes are compared in the same way, with intervals that allow for their number.
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from scipy import stats

from cglo_jax.errors import UserError

if TYPE_CHECKING:  # it imports JAX, which tables of results do not need
    from cglo_jax.workdir.results import Result

BASELINE = "baseline"
Results = dict[str, dict[int, "Result"]]  # {method: {seed: result}}
Confusion = collections.Counter[tuple[int, int]]  # images by (label, predicted)


def first_result(results: Results) -> "Result":
    """Returns the first of the results, for what is the same in all."""
    return next(iter(next(iter(results.values())).values()))


def shared_seeds(results: Results, method: str) -> list[int]:
    """Returns the seeds for which both `method` and the baseline have a result, ascending."""
    return sorted(results[method].keys() & results.get(BASELINE, {}).keys())


def paired_difference(
    a: Sequence[float], b: Sequence[float], confidence: float, resolution: float = 0.0
) -> tuple[float, float | None, float | None]:
    """Computes the mean of a - b over pairs and its Student t-interval.

    Accuracies are counts of test images, so a difference moves in steps of `resolution`, and seeds
    that agree to the last image have a standard deviation of 0, which would give an interval of no
    width. Values that fall on two neighbouring steps have one of up to half a step, which a few
    seeds can hardly tell from 0: so the standard deviation is taken to be at least that.

    Args:
      a: one value per seed.
      b: the values of the same seeds, in the same order.
      confidence: confidence level of the interval, between 0 and 1.
      resolution: smallest difference that two values can have, 0 = any.

    Returns:
      (mean, low, high) in the unit of a and b; low and high are None for a single pair.

    Raises:
      ValueError: a and b differ in length or are empty.
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) == 1:
        return mean, None, None
    deviation = max(statistics.stdev(differences), resolution / 2)
    t = float(stats.t.ppf((1 + confidence) / 2, len(differences) - 1))
    half = t * deviation / math.sqrt(len(differences))
    return mean, mean - half, mean + half


def judge(low: float | None, high: float | None) -> str:
    """Returns the verdict that the interval of a difference supports."""
    if low is None or high is None:
        return "no verdict from one seed"
    if low > 0:
        return "helped"
    return "hurt" if high < 0 else "no measurable difference"


def format_signed(points: float) -> str:
    """Writes a difference with two decimals and its sign, 0.00 without one."""
    text = f"{points:+.2f}"
    return text if float(text) else text[1:]


def format_interval(low: float, high: float) -> str:
    """Writes the ends of an interval, in points."""
    return f"{format_signed(low)} to {format_signed(high)}"


def standard_error(values: Sequence[float]) -> float | None:
    """Returns the standard error of the mean over seeds (n - 1 under the root); None for one."""
    if len(values) < 2:
        return None
    return statistics.stdev(values) / math.sqrt(len(values))


def accuracy_error(percent: float, n: int) -> float:
    """Returns the standard error, in points, that n test images alone give an accuracy.

    It is that of Agresti & Coull's estimate, (right + 2) / (n + 4), so that it is not 0 where all
    or none are right.

    Args:
      percent: the accuracy, from 0 to 100.
    """
    share = (percent / 100 * n + 2) / (n + 4)
    return 100 * math.sqrt(share * (1 - share) / (n + 4))


def format_mean(values: Sequence[float]) -> str:
    """Writes "mean ± standard error", or the mean alone if there is only one value."""
    error = standard_error(values)
    spread = "" if error is None else f" ± {error:.2f}"
    return f"{statistics.fmean(values):.2f}{spread}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A method against the baseline over the seeds both have, in points of top-1 accuracy.

    Attributes:
      differences: method minus baseline, one per seed.
      mean, low, high: see `paired_difference`.
      widened: whether the seeds agree more closely than the test set can resolve.
    """

    method: str
    seeds: list[int]
    differences: list[float]
    mean: float
    low: float | None
    high: float | None
    widened: bool

    @property
    def verdict(self) -> str:
        """The verdict that the interval supports, see `judge`."""
        return judge(self.low, self.high)

    @property
    def interval(self) -> str:
        """The interval as text, in points."""
        if self.low is None:
            return "none"
        return format_interval(self.low, self.high)


def compare(results: Results, method: str, confidence: float) -> Comparison | None:
    """Compares `method` with the baseline; None if they have no seed in common."""
    seeds = shared_seeds(results, method)
    if not seeds:
        return None
    a, b = ([results[m][seed]["top1"] for seed in seeds] for m in (method, BASELINE))
    differences = [x - y for x, y in zip(a, b, strict=True)]
    resolution = 100 / first_result(results)["n_test"]
    interval = paired_difference(a, b, confidence, resolution)
    widened = len(seeds) > 1 and statistics.stdev(differences) < resolution / 2
    return Comparison(method, seeds, differences, *interval, widened)


def describe(c: Comparison, confidence: float) -> str:
    """Writes a comparison as a text: the verdict, then the numbers behind it."""
    joint = " " if c.verdict in ("helped", "hurt") else ": "
    side = f"{abs(c.mean):.2f} points {'below' if c.mean < 0 else 'above'}"
    if not float(format_signed(c.mean)):
        side = "equal to"
    start = f"{c.method}{joint}{c.verdict}. Its top-1 accuracy is {side}"
    if c.low is None:
        return f"{start} {BASELINE} with seed {c.seeds[0]}, which may be chance."
    interval = f"{100 * confidence:g}% interval {c.interval}"
    return f"{start} {BASELINE} ({interval}, {len(c.seeds)} seeds)."


# Single classes


def sum_confusion(results: Results, method: str, seeds: Sequence[int]) -> Confusion:
    """Counts the test images of all `seeds` together by (label, predicted)."""
    total: Confusion = collections.Counter()
    for seed in seeds:
        for label, predicted, count in results[method][seed]["confusion"]:
            total[label, predicted] += count
    return total


def most_confused(a: Confusion, b: Confusion, most: int) -> list[tuple[int, int]]:
    """Returns up to `most` pairs of different classes, the most frequent in both together first."""
    both = a + b
    pairs = [(-n, pair) for pair, n in both.items() if pair[0] != pair[1]]
    return [pair for _, pair in sorted(pairs)[:most]]


@dataclasses.dataclass(frozen=True)
class ClassChange:
    """The accuracy on one class, method against baseline.

    Attributes:
      tested: number of test images of the class.
      baseline, method: mean percentages over the seeds.
      mean, low, high: mean and interval of the paired difference in points, see `paired_difference`.
      survives: whether the interval that is wide enough for all classes at once excludes 0.
    """

    label: int
    tested: int
    baseline: float
    method: float
    mean: float
    low: float | None
    high: float | None
    survives: bool

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval of this class alone excludes 0."""
        return self.low is not None and (self.low > 0 or self.high < 0)


def _adjust_confidence(confidence: float, n: int) -> float:
    """Returns the confidence of each of `n` intervals that all hold with `confidence`.

    This is Bonferroni's correction, which holds however the classes depend on each other.
    """
    return 1 - (1 - confidence) / n


def compare_classes(
    results: Results, method: str, confidence: float
) -> list[ClassChange]:
    """Compares `method` with the baseline class by class, the largest rise first.

    Seeds are paired as in `compare`. Classes without a test image are left out.

    Raises:
      UserError: results do not have the same test images.
    """
    seeds = shared_seeds(results, method)
    counted = {
        name: [count_right(results[name][seed]["confusion"]) for seed in seeds]
        for name in (BASELINE, method)
    }
    tested = counted[BASELINE][0][0]
    for name, of_seeds in counted.items():
        for seed, (total, _) in zip(seeds, of_seeds, strict=True):
            if total != tested:
                raise UserError(
                    f"classifiers/{name}-{seed} was tested on other images than "
                    f"classifiers/{BASELINE}-{seeds[0]}: move one of the two folders out of the "
                    "work directory and run --stage=classify again"
                )
    adjusted = _adjust_confidence(confidence, len(tested))
    changes = []
    for label, n in sorted(tested.items()):
        base, ours = (
            [100 * right[label] / n for _, right in counted[name]]
            for name in (BASELINE, method)
        )
        mean, low, high = paired_difference(ours, base, confidence, 100 / n)
        _, lowest, highest = paired_difference(ours, base, adjusted, 100 / n)
        survives = lowest is not None and (lowest > 0 or highest < 0)
        means = (sum(values) / len(seeds) for values in (base, ours))
        changes.append(ClassChange(label, n, *means, mean, low, high, survives))
    return sorted(changes, key=lambda c: (-c.mean, c.label))


def count_right(
    confusion: Iterable[tuple[int, int, int]],
) -> tuple[collections.Counter[int], collections.Counter[int]]:
    """Counts, by label, the test images and those that are classified correctly.

    Args:
      confusion: (label, predicted, count), see `results.confusion`.
    """
    tested: collections.Counter[int] = collections.Counter()
    right: collections.Counter[int] = collections.Counter()
    for label, predicted, number in confusion:
        tested[label] += number
        right[label] += number * (label == predicted)
    return tested, right
