"""TensorBoard's event files, read back with tensorboardX's own messages."""

import pathlib
from typing import NamedTuple

from tensorboardX import record_writer
from tensorboardX.proto import event_pb2


class Shown(NamedTuple):
    """What TensorBoard shows: {name: {step: value or PNG}}."""

    scalars: dict[str, dict[int, float]]
    pictures: dict[str, dict[int, bytes]]


def read_events(path: pathlib.Path) -> list[event_pb2.Event]:
    """Reads records of a length, its checksum, an event, its checksum."""
    data, events = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        content = data[12 : 12 + length]
        checksum = int.from_bytes(data[12 + length : 16 + length], "little")
        assert checksum == record_writer.masked_crc32c(content)
        events.append(event_pb2.Event.FromString(content))
        data = data[16 + length :]
    return events


def read_shown(folder: pathlib.Path) -> Shown:
    """Reads all event files of a run, in the order of their names, as TensorBoard does."""
    shown = Shown({}, {})
    for path in sorted(folder.iterdir()):
        for event in read_events(path):
            if event.session_log.status == event_pb2.SessionLog.START:
                for by_step in [*shown.scalars.values(), *shown.pictures.values()]:
                    for step in [s for s in by_step if s >= event.step]:
                        del by_step[step]
            for value in event.summary.value:
                picture = value.WhichOneof("value") == "image"
                kind = shown.pictures if picture else shown.scalars
                by_step = kind.setdefault(value.tag, {})
                assert event.step not in by_step
                by_step[event.step] = (
                    value.image.encoded_image_string if picture else value.simple_value
                )
    return shown
