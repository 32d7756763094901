"""Progress for people: one updating line on a terminal, plain lines elsewhere."""

import sys
import time

from tqdm import tqdm

_PLAIN_EVERY_S = 30.0  # seconds between plain lines


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
        self._began = self._compiled = self._told = time.perf_counter()
        self._values: dict[str, float] = {}
        self._bar = None
        if start >= total:
            self.tell(f"done before, at step {total}")
        elif start:
            self.tell(f"resumed at step {start} of {total}")

    def tell(self, text: str) -> None:
        """Writes a line about the loop."""
        if not self._silent:
            tqdm.write(f"{self._name}: {text}", file=sys.stderr)

    def first_steps(self, seconds: float, taken: int) -> None:
        """Tells how long the first call took, which includes compilation; `taken` steps."""
        self._compiled = time.perf_counter()
        self._step += taken
        self._timed_from = self._step
        if seconds > 1:  # else it was compiled before
            first = "step" if taken == 1 else f"{taken} steps"
            self.tell(f"compiled and took the first {first} in {seconds:.1f} s")
        if sys.stderr.isatty() and not self._silent:
            self._bar = tqdm(
                total=self._total,
                initial=self._step,
                desc=self._name,
                bar_format="{desc}: {n_fmt}/{total_fmt} steps, {remaining} left{postfix}",
                dynamic_ncols=True,
                file=sys.stderr,
            )

    def update(self, step: int, values: dict[str, float]) -> None:
        """Shows the state after `step`."""
        self._step, self._values = step, values
        now = time.perf_counter()
        if self._bar is not None:
            self._bar.set_postfix_str(self._text(), refresh=False)
            self._bar.update(step - self._bar.n)
        elif now - self._told > _PLAIN_EVERY_S or step == self._total:
            self._told = now
            left = (now - self._compiled) / max(1, step - self._timed_from)
            left = tqdm.format_interval(left * (self._total - step))
            self.tell(f"step {step}/{self._total}, {self._text()}, {left} left")

    def _text(self) -> str:
        terms = [f"{k} {v:.4g}" for k, v in self._values.items()]
        return ", ".join([*terms, f"{self._rate():,.0f} images/s"])

    def _rate(self) -> float:
        seconds = time.perf_counter() - self._compiled
        return (self._step - self._timed_from) * self._images / max(seconds, 1e-9)

    def close(self) -> None:
        """Ends the line."""
        if self._bar is not None:
            self._bar.close()

    def timing(self, step: int) -> dict[str, float]:
        """Returns wall_s, compile_s (first call), steps and images_per_s after it, until `step`."""
        self._step = step
        return {
            "wall_s": round(time.perf_counter() - self._began, 3),
            "compile_s": round(self._compiled - self._began, 3),
            "steps": self._step - self._start,
            "images_per_s": round(self._rate(), 1),
        }
