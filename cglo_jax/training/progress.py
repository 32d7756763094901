"""Progress of a loop on standard error: a tqdm bar on a terminal, plain lines elsewhere.

tqdm measures the terminal, cuts the line to it, limits how often it is drawn and estimates the time
left. What it cannot do is here: plain lines for pipes and log files, into which it would write carriage
returns; a count of the steps that the devices have finished, without waiting for the others; and a
rate without the compilation.
"""

import math
import sys
import time
from collections.abc import Mapping

import jax
from tqdm import tqdm

_PLAIN_EVERY_S = 30.0  # seconds between plain lines
_LOOK_EVERY_S = 0.5  # between looks at what the devices have done
_BAR = "{desc}: {n:,}/{total:,} {bar} {remaining} left{postfix}"


class Progress:
    """Prints step, losses, images per second and time left of one loop on standard error.

    Args:
      name: what is running, such as "train seed 0".
      start, total: number of steps done before, and of all steps in the end.
      images_per_step: for images/s.
      silent: print nothing, as all but one of several processes do.
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
        # A step that was dispatched but not seen to end yet, and one of its results.
        self._dispatched: tuple[int, jax.Array] | None = None
        self._look = math.inf
        self._bar: tqdm | None = None
        self.begin()
        if start >= total:
            self.print(f"done before, at step {total:,}")
        elif start:
            self.print(f"resumed at step {start:,} of {total:,}")

    def begin(self) -> None:
        """Starts the clock."""
        self._began = self._compiled = self._printed = self._at = time.perf_counter()

    def print(self, text: str) -> None:
        """Prints a line about the loop, above the bar if there is one."""
        if not self._silent:
            tqdm.write(f"{self._name}: {text}", file=sys.stderr)

    def first_steps(self, taken: int) -> None:
        """Prints how long the first call took, which includes compilation and `taken` steps."""
        self._compiled = self._at = time.perf_counter()
        self._step += taken
        self._timed_from = self._step
        seconds = self._compiled - self._began
        if seconds > 1:  # else it was compiled before
            first = "step" if taken == 1 else f"{taken} steps"
            self.print(f"compiled and took the first {first} in {seconds:.1f} s")
        if self._silent:
            return
        self._look = self._compiled + _LOOK_EVERY_S
        if sys.stderr.isatty():
            self._bar = tqdm(
                desc=self._name,
                initial=self._step,
                total=self._total,
                bar_format=_BAR,
                dynamic_ncols=True,
                leave=False,
                miniters=0,
                smoothing=0,  # the average since the first steps
                file=sys.stderr,
            )

    def tick(self, step: int, results: Mapping[str, jax.Array]) -> None:
        """Shows how far the devices are if it is time to, without waiting for them.

        Args:
          step: number of steps after the call that was dispatched last.
          results: arrays [...] that this call returned; devices may still be computing them.
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
        self._show(now)

    def _show(self, now: float) -> None:
        timed = self._step > self._timed_from
        terms = [*([self._rate_text()] if timed else []), *self._value_terms()]
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(terms), refresh=False)
            self._bar.update(self._step - self._bar.n)
        elif now - self._printed > _PLAIN_EVERY_S:
            self._printed = now
            if timed:
                seconds = (self._at - self._compiled) / (self._step - self._timed_from)
                left = tqdm.format_interval(seconds * (self._total - self._step))
                terms = [f"{left} left", *terms]
            self.print(", ".join([f"step {self._step:,}/{self._total:,}", *terms]))

    def _value_terms(self) -> list[str]:
        """Returns "name value" of each metric, the loss first: a narrow terminal cuts the last."""
        names = sorted(self._values, key=lambda name: name != "loss")
        return [f"{name} {self._values[name]:.4g}" for name in names]

    def _rate(self) -> float:
        seconds = self._at - self._compiled
        return (self._step - self._timed_from) * self._images / max(seconds, 1e-9)

    def _rate_text(self) -> str:
        rate = self._rate()
        return f"{rate:,.0f} images/s" if rate >= 10 else f"{rate:.2g} images/s"

    def print_done(self) -> None:
        """Prints one line about the end, once the last step is saved."""
        self.close()
        seconds = time.perf_counter() - self._began
        took = f"{seconds:.0f} s" if seconds < 60 else tqdm.format_interval(seconds)
        steps = f"{self._total:,} step" + "s" * (self._total > 1)
        if self._start:
            steps += f", the last {self._total - self._start:,}"
        if self._step > self._timed_from:
            took += f" ({self._rate_text()})"
        self.print(
            ", ".join([f"done, {steps} in {took}", *self._value_terms()[:1], "saved"])
        )

    def close(self) -> None:
        """Removes the bar from the terminal."""
        if self._bar is not None:
            self._bar.close()

    def timing(self, step: int) -> dict[str, float]:
        """Returns the times of this call until `step`.

        Returns:
          wall_s: seconds since `begin`; compile_s: seconds of them until the first steps were taken;
          steps: number of steps taken; images_per_s: images per second after the first steps.
        """
        now = time.perf_counter()
        if step > self._step:
            self._step, self._at = step, now
        return {
            "wall_s": round(now - self._began, 3),
            "compile_s": round(self._compiled - self._began, 3),
            "steps": self._step - self._start,
            "images_per_s": round(self._rate(), 1),
        }
