"""Fingerprints: the fields that determine a trained result, and whether two of them agree."""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cglo_jax.config.defaults import flatten
from cglo_jax.config.fields import CGLO, CLASSIFIER, Affects, affects
from cglo_jax.errors import UserError, printable, shorten

# Sections with a number of epochs, and their fields that set the length of a run.
_PARTS = ("train", "classify")
_LENGTHS = ("epochs", "lr_drop_epochs")


def train_fingerprint(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields that determine a cGLO checkpoint, by dotted name."""
    return _select(config, CGLO)


def classify_fingerprint(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields that determine a trained classifier, by dotted name."""
    return _select(config, CGLO, CLASSIFIER)


def _select(config: ConfigDict, *affected: Affects) -> dict[str, Any]:
    flat = flatten(config)
    return {name: value for name, value in flat.items() if affects(name) in affected}


def find_longer(saved: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns which of "train" and "classify" have more epochs in `now` and begin as in `saved`.

    Their learning rates must fall after the same epochs, up to the last epoch of `saved`.
    """
    return tuple(part for part in _PARTS if _is_longer(part, saved, now))


def _is_longer(part: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    epochs, drops = (f"{part}.{name}" for name in _LENGTHS)
    before, after = saved.get(epochs), now.get(epochs)
    if type(before) is not int or type(after) is not int or before >= after:
        return False
    falls = [fields.get(drops) or () for fields in (saved, now)]
    if any(type(epoch) is not int for epoch in [*falls[0], *falls[1]]):
        return False
    done = [sorted(epoch for epoch in some if epoch < before) for some in falls]
    return done[0] == done[1]


def describe_longer(part: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describes to users how many more epochs `part` has, and when its learning rates fall."""
    epochs, drops = (f"{part}.{name}" for name in _LENGTHS)
    new = [str(e) for e in sorted(now[drops]) if saved[epochs] <= e < now[epochs]]
    falls = "no fall of the learning rates lies in the new part"
    if new:
        falls = f"the learning rates fall in the new part after epoch {', '.join(new)}"
    return (
        f"was trained for {_count(saved[epochs])}, continues to {now[epochs]}; {falls}"
    )


def _count(epochs: int) -> str:
    return f"{epochs} epoch{'s' if epochs > 1 else ''}"


def check_fingerprint(
    saved: Mapping[str, Any],
    now: Mapping[str, Any],
    where: str,
    numbers: str = "",
    *,
    may_grow: Sequence[str] = (),
    cannot_grow: str = "",
) -> tuple[str, ...]:
    """Checks that two fingerprints agree.

    Args:
      saved: fields by dotted name, and hashes such as "images".
      now: the same of this call.
      where: the place that `saved` was read from, for the message.
      numbers: describes the images, of which `saved` and `now` have a hash only.
      may_grow: which of "train" and "classify" may have more epochs in `now`.
      cannot_grow: why one may not, for people.

    Returns:
      Those of `may_grow` that have more epochs, see `find_longer`.

    Raises:
      UserError: they differ; it names a field and both values.
    """
    longer = find_longer(saved, now)
    grown = tuple(part for part in longer if part in may_grow)
    allowed = {f"{part}.{name}" for part in grown for name in _LENGTHS}
    for name in sorted((saved.keys() | now.keys()) - allowed):
        if saved.get(name) != now.get(name):
            # A hash means nothing to people.
            if name in ("images", "test_images", "weights"):
                shown = f" ({numbers})" if numbers and name != "weights" else ""
                kind = name.replace("_", " ")
                raise UserError(
                    f"{where} was made with other {kind} than this call reads{shown}: use another "
                    f"--workdir or the old {kind}"
                )
            if name not in saved:
                raise UserError(
                    f"{where} was made by a version of this program that had no {name}: use another "
                    "--workdir"
                )
            values = [shorten(repr(of.get(name))) for of in (saved, now)]
            raise UserError(
                f"{where} was made with {shorten(printable(name))}={values[0]}, this call has "
                f"{values[1]}: " + (cannot_grow or _hint(name, saved, now, longer))
            )
    return grown


def _hint(
    name: str, saved: Mapping[str, Any], now: Mapping[str, Any], longer: Sequence[str]
) -> str:
    """Returns what to do about a field that differs."""
    part, _, field = name.rpartition(".")
    old = "use another --workdir or the old value (a call without --config has it)"
    if part in longer and field in _LENGTHS:
        return f"run --stage={part} first, which continues to that epoch"
    lengths = [fields.get(name) for fields in (saved, now)]
    if field == "epochs" and all(type(length) is int for length in lengths):
        if now[name] < saved[name]:
            return (
                f"a run can be trained for more epochs, not fewer: use {saved[name]} or more, or "
                "another --workdir"
            )
        return (
            f"it cannot be trained for more epochs, as {part}.lr_drop_epochs differ in the epochs "
            "that are done: give the old epochs, too, or use another --workdir"
        )
    if field == "steps_per_epoch":
        return f"{old}; {part}.epochs makes a run longer"
    return old
