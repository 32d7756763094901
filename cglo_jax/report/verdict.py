"""Did a method help? Accuracies of runs that share a seed -> a verdict and its numbers.

The verdict is a paired t-interval over seeds: the runs of one seed share their training images
and their length and differ in the augmentation only. It says nothing that the interval does not
carry.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from scipy import stats

BASELINE = "baseline"
Results = dict[str, dict[int, dict[str, Any]]]  # result.json by method, then seed


def any_result(results: Results) -> dict[str, Any]:
    """Returns one of the results, for what is the same in all."""
    return next(iter(next(iter(results.values())).values()))


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
      confidence: of the interval, between 0 and 1.
      resolution: smallest difference that two values can have, 0 = any.

    Returns:
      (mean, low, high) in the unit of a and b; low and high are None for a single pair.

    Raises:
      ValueError: if a and b differ in length or are empty.
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) == 1:
        return mean, None, None
    deviation = max(statistics.stdev(differences), resolution / 2)
    t = float(stats.t.ppf((1 + confidence) / 2, len(differences) - 1))
    half = t * deviation / math.sqrt(len(differences))
    return mean, mean - half, mean + half


def verdict(low: float | None, high: float | None) -> str:
    """Returns what an interval of the difference allows to say, and no more."""
    if low is None or high is None:
        return "no verdict from one seed"
    if low > 0:
        return "helped"
    return "hurt" if high < 0 else "no measurable difference"


def signed(points: float) -> str:
    """Writes a difference with its sign, which 0.00 has none of."""
    text = f"{points:+.2f}"
    return text if float(text) else text[1:]


def standard_error(values: Sequence[float]) -> float | None:
    """Returns the standard error of the mean over seeds (n - 1 under the root); None for one."""
    if len(values) < 2:
        return None
    return statistics.stdev(values) / math.sqrt(len(values))


def accuracy_error(percent: float, n: int) -> float:
    """Returns the standard error of an accuracy, in points, that n test images alone give it.

    Of Agresti & Coull's estimate, (right + 2) / (n + 4), so that it is not 0 where all or none are
    right.
    """
    share = (percent / 100 * n + 2) / (n + 4)
    return 100 * math.sqrt(share * (1 - share) / (n + 4))


def mean_and_error(values: Sequence[float]) -> str:
    """Returns "mean ± standard error", the mean alone of a single value."""
    error = standard_error(values)
    spread = "" if error is None else f" ± {error:.2f}"
    return f"{statistics.fmean(values):.2f}{spread}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A method against the baseline in points of top-1 accuracy, over the seeds both have."""

    method: str
    seeds: list[int]
    differences: list[float]  # method - baseline, per seed
    mean: float
    low: float | None
    high: float | None
    widened: bool  # the seeds agree more closely than the test set can tell

    @property
    def verdict(self) -> str:
        """What the interval allows to say."""
        return verdict(self.low, self.high)

    @property
    def interval(self) -> str:
        """The interval as text, in points."""
        if self.low is None:
            return "none"
        return f"{signed(self.low)} to {signed(self.high)}"


def compare(results: Results, method: str, confidence: float) -> Comparison | None:
    """Compares `method` with the baseline; None if they have no seed in common."""
    ours, base = results[method], results.get(BASELINE, {})
    seeds = sorted(ours.keys() & base.keys())
    if not seeds:
        return None
    a, b = ([runs[seed]["top1"] for seed in seeds] for runs in (ours, base))
    differences = [x - y for x, y in zip(a, b, strict=True)]
    resolution = 100 / any_result(results)["n_test"]
    interval = paired_difference(a, b, confidence, resolution)
    widened = len(seeds) > 1 and statistics.stdev(differences) < resolution / 2
    return Comparison(method, seeds, differences, *interval, widened)


def sentence(c: Comparison, confidence: float) -> str:
    """Says a comparison: the verdict, then the numbers it rests on."""
    joint = " " if c.verdict in ("helped", "hurt") else ": "
    side = f"{abs(c.mean):.2f} points {'below' if c.mean < 0 else 'above'}"
    if not float(signed(c.mean)):
        side = "equal to"
    start = f"{c.method}{joint}{c.verdict}. Its top-1 accuracy is {side}"
    if c.low is None:
        return f"{start} {BASELINE} with seed {c.seeds[0]}, which may be chance."
    interval = f"{100 * confidence:g}% interval {c.interval}"
    return f"{start} {BASELINE} ({interval}, {len(c.seeds)} seeds)."
