"""What became of single classes: changes of each one's accuracy, and what was taken for what."""

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from cglo_jax.errors import UserError
from cglo_jax.report.verdict import BASELINE, Results, paired_difference

Pairs = collections.Counter[tuple[int, int]]  # images by (label, predicted)


def uncounted(results: Results) -> list[str]:
    """Names the results that do not say which class was taken for which."""
    return [
        f"classifiers/{method}-{seed}"
        for method, runs in results.items()
        for seed, result in runs.items()
        if not result["confusion"]
    ]


def shared_seeds(results: Results, method: str) -> list[int]:
    """Returns the seeds that both `method` and the baseline have results of."""
    return sorted(results[method].keys() & results.get(BASELINE, {}).keys())


def sum_confusion(results: Results, method: str, seeds: Sequence[int]) -> Pairs:
    """Counts the test images of all `seeds` together."""
    pairs: Pairs = collections.Counter()
    for seed in seeds:
        for label, predicted, count in results[method][seed]["confusion"]:
            pairs[label, predicted] += count
    return pairs


def most_confused(a: Pairs, b: Pairs, most: int) -> list[tuple[int, int]]:
    """Returns the pairs of different classes that are most frequent in both together."""
    both = a + b
    pairs = [(-n, pair) for pair, n in both.items() if pair[0] != pair[1]]
    return [pair for _, pair in sorted(pairs)[:most]]


@dataclasses.dataclass(frozen=True)
class Change:
    """A class: the percentage of its test images that are right, method minus baseline.

    Attributes:
      tested: its test images.
      baseline, method: mean percentages over the seeds.
      mean, low, high: of the paired difference in points, see `verdict.paired_difference`.
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


def adjust_confidence(confidence: float, n: int) -> float:
    """Returns the confidence of each of `n` intervals that all hold with `confidence`.

    Bonferroni's: whatever the classes have to do with each other.
    """
    return 1 - (1 - confidence) / n


def compare_classes(results: Results, method: str, confidence: float) -> list[Change]:
    """Compares `method` with the baseline class by class, the largest rise first.

    Seeds are paired as in `verdict.compare`. Classes without a test image are left out.

    Raises:
      UserError: results do not have the same test images.
    """
    seeds = shared_seeds(results, method)
    counted = {
        name: [count(results[name][seed]["confusion"]) for seed in seeds]
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
    adjusted = adjust_confidence(confidence, len(tested))
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
        changes.append(Change(label, n, *means, mean, low, high, survives))
    return sorted(changes, key=lambda c: (-c.mean, c.label))


def count(
    confusion: Iterable[tuple[int, int, int]],
) -> tuple[collections.Counter[int], collections.Counter[int]]:
    """Counts test images of each class, and those of them that are right.

    Args:
      confusion: see `results.confusion`.
    """
    tested: collections.Counter[int] = collections.Counter()
    right: collections.Counter[int] = collections.Counter()
    for label, predicted, number in confusion:
        tested[label] += number
        right[label] += number * (label == predicted)
    return tested, right
