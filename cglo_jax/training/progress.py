"""Progress for people: one updating line on a terminal, plain lines elsewhere."""

import math
import os
import sys
import time
from collections.abc import Mapping

import jax
from tqdm import tqdm

_PLAIN_EVERY_S = 30.0  # seconds between plain lines
_LOOK_EVERY_S = 0.5  # between looks at what the devices have done
_SHOW_EVERY_S = 0.1  # between changes of the line on a terminal
_WIDTH = 80  # columns of a terminal that does not tell


class Progress:
    """Tells step, losses, images per second and time left of one loop, on standard error.

    Args:
      name: what is running, such as "train seed 0".
      start, total: steps done before, and in the end.
      images_per_step: for images/s.
      silent: tell nothing, as all but one of several processes do.
    """

    def __init__(
        self,
        name: str,
        start: int,
        total: int,
        images_per_step: int,
        *,
        silent: bool = False,
    ):
        self._silent = silent
        self._name, self._total, self._images = name, total, images_per_step
        self._start = self._step = self._timed_from = start
        self._values: dict[str, float] = {}
        self._dispatched: tuple[int, jax.Array] | None = None  # a step, of its results
        self._look, self._shown = math.inf, -math.inf
        self._bar = None
        self.begin()
        if start >= total:
            self.tell(f"done before, at step {total:,}")
        elif start:
            self.tell(f"resumed at step {start:,} of {total:,}")

    def begin(self) -> None:
        """Starts the clock."""
        self._began = self._compiled = self._told = self._at = time.perf_counter()

    def tell(self, text: str) -> None:
        """Writes a line about the loop."""
        if not self._silent:
            tqdm.write(f"{self._name}: {text}", file=sys.stderr)

    def first_steps(self, taken: int) -> None:
        """Tells how long the first call took, which includes compilation; `taken` steps."""
        self._compiled = self._at = time.perf_counter()
        self._step += taken
        self._timed_from = self._step
        seconds = self._compiled - self._began
        if seconds > 1:  # else it was compiled before
            first = "step" if taken == 1 else f"{taken} steps"
            self.tell(f"compiled and took the first {first} in {seconds:.1f} s")
        if self._silent:
            return
        self._look = self._compiled + _LOOK_EVERY_S
        if sys.stderr.isatty():
            # The text fits, so tqdm need not cut it.
            self._bar = tqdm(
                bar_format="{desc}", ncols=10_000, leave=False, file=sys.stderr
            )
            self._show(self._compiled)

    def tick(self, step: int, results: Mapping[str, jax.Array]) -> None:
        """Shows how far the devices are if it is time to, without waiting for them.

        Args:
          results: what the call that ended at `step` will give; devices may be behind.
        """
        now = time.perf_counter()
        if self._dispatched is None:
            if now < self._look:
                return
            self._dispatched = step, next(iter(results.values()))
        done, result = self._dispatched
        if result.is_ready():  # else again after the next call
            self._dispatched, self._look = None, now + _LOOK_EVERY_S
            self._step, self._at = done, now
            self._show(now)

    def update(self, step: int, values: dict[str, float]) -> None:
        """Shows the values after `step`, which is done."""
        now = time.perf_counter()
        self._step, self._at, self._values = step, now, values
        self._dispatched = None
        if now - self._shown > _SHOW_EVERY_S:
            self._show(now)

    def _show(self, now: float) -> None:
        terms = self._terms()
        if self._bar is not None:
            self._shown = now
            self._bar.set_description_str(_fit(self._name, terms, _columns() - 1))
        elif now - self._told > _PLAIN_EVERY_S:
            self._told = now
            self.tell(f"step {', '.join(terms)}")

    def _terms(self) -> list[str]:
        """What to show, the most important first."""
        terms = [f"{self._step:,}/{self._total:,}"]
        if self._step > self._timed_from:
            seconds = (self._at - self._compiled) / (self._step - self._timed_from)
            left = tqdm.format_interval(seconds * (self._total - self._step))
            terms += [f"{left} left", self._rate_text()]
        return terms + self._value_terms()

    def _value_terms(self) -> list[str]:
        names = sorted(self._values, key=lambda name: name != "loss")
        return [f"{name} {self._values[name]:.4g}" for name in names]

    def _rate(self) -> float:
        seconds = self._at - self._compiled
        return (self._step - self._timed_from) * self._images / max(seconds, 1e-9)

    def _rate_text(self) -> str:
        rate = self._rate()
        return f"{rate:,.0f} images/s" if rate >= 10 else f"{rate:.2g} images/s"

    def tell_done(self) -> None:
        """Tells of the end in one line, once the last step is saved."""
        self.close()
        seconds = time.perf_counter() - self._began
        took = f"{seconds:.0f} s" if seconds < 60 else tqdm.format_interval(seconds)
        steps = f"{self._total:,} step" + "s" * (self._total > 1)
        if self._start:
            steps += f", the last {self._total - self._start:,}"
        if self._step > self._timed_from:
            took += f" ({self._rate_text()})"
        self.tell(
            ", ".join([f"done, {steps} in {took}", *self._value_terms()[:1], "saved"])
        )

    def close(self) -> None:
        """Ends the line on a terminal."""
        if self._bar is not None:
            self._bar.close()

    def timing(self, step: int) -> dict[str, float]:
        """Returns wall_s, compile_s (first call), steps and images_per_s after it, until `step`."""
        now = time.perf_counter()
        if step > self._step:
            self._step, self._at = step, now
        return {
            "wall_s": round(now - self._began, 3),
            "compile_s": round(self._compiled - self._began, 3),
            "steps": self._step - self._start,
            "images_per_s": round(self._rate(), 1),
        }


def _columns() -> int:
    """Returns the columns of the terminal, which may change."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _WIDTH
    except (OSError, ValueError, AttributeError):  # no terminal, or none of Python's
        return _WIDTH


def _fit(name: str, terms: list[str], width: int) -> str:
    """Joins as many of the first terms as fit; the name goes before the first of them goes."""
    most = range(len(terms), 0, -1)
    texts = [f"{name}: {', '.join(terms[:n])}" for n in most]
    texts += [", ".join(terms[:n]) for n in most]
    return next((text for text in texts if len(text) <= width), terms[0][:width])
