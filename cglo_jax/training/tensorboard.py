"""Scalars and pictures for TensorBoard, where the extra `tensorboard` is installed."""

import contextlib
import pathlib
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from cglo_jax.files import ownership, storage

_FLUSH_S = 10.0  # to the disk


class TensorBoard:
    """The events of one run in workdir/tensorboard/<name>, from the step after `start` on.

    It writes in the calling thread: tensorboardX's own SummaryWriter writes in another, and once that has
    failed, as on a full disk, its queue fills up and blocks. If a file cannot be written, one line is
    printed, and the run continues without it.
    """

    def __init__(self, workdir: pathlib.Path, name: str, start: int):
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        self._make, self._event = summary, event_pb2.Event
        self._writer, self._flushed = None, time.monotonic()
        folder = workdir / "tensorboard" / name
        with self._warning():
            ownership.claim(workdir)
            storage.make_folder(folder.absolute())
            # Files are named by the second, and read in the order of their names; a rollback may come
            # in the same second. Nobody must be able to foresee a name and put a link there.
            suffix = f".{time.time_ns()}.{secrets.token_hex(8)}"
            prefix = str(folder / "events")
            self._writer = event_file_writer.EventsWriter(prefix, suffix)
            (file,) = folder.glob(f"*{suffix}")
            ownership.note(workdir, file.relative_to(workdir).as_posix())
            # Hides what a resumed run had written past its checkpoint: it is written again.
            begin = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(start + 1, session_log=begin)

    @classmethod
    def open(cls, workdir: pathlib.Path, name: str, start: int) -> Self | None:
        """Returns a `TensorBoard`, None if tensorboardX is not installed."""
        try:
            import tensorboardX  # noqa: F401
        except ImportError:
            return None
        return cls(workdir, name, start)

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the metrics, one number each, after `step`."""
        with self._warning():
            for name, value in values.items():
                self._write(step, summary=self._make.scalar(name, value))
            if time.monotonic() - self._flushed > _FLUSH_S:
                self._flush()

    def write_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Writes pictures uint8 [H, W, 3] of the state after `step`."""
        with self._warning():
            for name, picture in pictures.items():
                image = self._make.image(name, picture, dataformats="HWC")
                self._write(step, summary=image)
            self._flush()

    def close(self) -> None:
        """Writes what is still in memory."""
        with self._warning():
            if self._writer:
                self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        if self._writer:
            event = self._event(wall_time=time.time(), step=step, **content)
            self._writer.write_event(event)

    def _flush(self) -> None:
        if self._writer:
            self._writer.flush()
        self._flushed = time.monotonic()

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        """Prints one warning if a file cannot be written; from then on nothing is written."""
        try:
            yield
        except OSError as error:
            text = f"warning: a file for TensorBoard: {storage.explain(error)}"
            print(text, file=sys.stderr, flush=True)
            writer, self._writer = self._writer, None
            with contextlib.suppress(OSError):
                if writer:
                    writer.close()
