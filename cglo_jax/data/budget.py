"""An amount of something that threads share."""

import contextlib
import threading
from collections.abc import Iterator


class Budget:
    """So much of something; who takes a part waits until it is free."""

    def __init__(self, total: int):
        self._total = self._free = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Holds `amount` while the context lasts; what is more than all there is, alone."""
        amount = min(amount, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()
