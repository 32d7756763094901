"""Named tensors of a .safetensors file on a server, by HTTP range requests.

Format: 8 bytes with the header's length n, n bytes of JSON with each tensor's type, shape
and place, then the tensors. Nothing of it is believed: each answer must be exactly the
range that was asked for, and each tensor's entry is checked before it is fetched.
"""

import json
import math
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from cglo_jax.errors import UserError
from cglo_jax.files import download
from cglo_jax.files.download import MIB, keep_trying, nonsense_is_oserror
from cglo_jax.pretrained.files import DTYPES, Shape, check_stored, to_float32

HEADER_LIMIT = MIB  # bytes; those of published networks are some kB
SOURCE = "the server's file"  # in messages


class Place(NamedTuple):
    """Where a tensor is: its bytes in the file, and their type."""

    start: int
    stop: int
    dtype: np.dtype


class StayEncrypted(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but none from https to anything else."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if req.type == "https" and not newurl.lower().startswith("https:"):
            refusal = f"the server redirects from https to {newurl}"
            raise urllib.error.HTTPError(req.full_url, code, refusal, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def append_range(
    url: str, data: bytearray, start: int, stop: int, size: int, bar: tqdm
) -> None:
    """Appends to `data` what it lacks of bytes [start, stop), over one connection.

    Args:
        url: of a file of `size` bytes.

    Raises:
        OSError, http.client.HTTPException: the connection failed or ended early, or the
            server's answer is not that range of a file of that size.
    """
    first = start + len(data)
    headers = {"User-Agent": "cglo-jax", "Range": f"bytes={first}-{stop - 1}"}
    request = urllib.request.Request(url, headers=headers)
    opener = urllib.request.build_opener(StayEncrypted)
    with (
        nonsense_is_oserror(),
        opener.open(request, timeout=download.TIMEOUT_SECONDS) as response,
    ):
        if response.status != 206:
            raise OSError(f"the server sends no part of it (status {response.status})")
        wanted = f"bytes {first}-{stop - 1}/{size}", str(stop - first)
        sent = [response.headers.get(h) for h in ("Content-Range", "Content-Length")]
        if tuple(sent) != wanted:
            raise OSError(f"the server sends {sent}, not {list(wanted)}")
        # Into a buffer: to `read`, a chunk of negative length is all that will ever come.
        buffer = memoryview(bytearray(MIB // 4))
        while count := response.readinto(buffer[: stop - start - len(data)]):
            data += buffer[:count]
            bar.update(count)
    if len(data) < stop - start:
        raise OSError(f"the connection ended after {len(data)} of {stop - start} bytes")


def read_range(url: str, start: int, stop: int, size: int, bar: tqdm) -> bytes:
    """Returns bytes [start, stop) of a file of `size` bytes.

    Raises:
        OSError, http.client.HTTPException: they cannot be had.
    """
    data = bytearray()
    keep_trying(
        lambda: append_range(url, data, start, stop, size, bar), lambda: len(data)
    )
    return bytes(data)


def read_header(url: str, size: int, bar: tqdm) -> tuple[dict, int]:
    """Returns ({tensor name: its entry, not checked}, where the tensors begin)."""
    length = int.from_bytes(read_range(url, 0, 8, size, bar), "little")
    if not 2 <= length <= min(HEADER_LIMIT, size - 8):
        raise UserError(f"{SOURCE} has a header of {length} bytes")
    text = read_range(url, 8, 8 + length, size, bar)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise UserError(f"{SOURCE} has a header that is not a JSON object")
    return header, 8 + length


def locate(header: dict, begin: int, size: int, shapes: Mapping[str, Shape]) -> dict:
    """Returns {name: Place} of the tensors of `shapes`, in the file's order.

    Args:
        header: {name: entry}, as the server has it.
        begin: where the tensors begin, in bytes.
        size: of the file, in bytes.

    Raises:
        UserError: a tensor is absent or of another type or shape, or its bytes are
            not as many as that needs, not in the file, or another's too.
    """
    places = {}
    for name, shape in shapes.items():
        match header.get(name):
            case {
                "dtype": str(dtype),
                "shape": list(stored),
                "data_offsets": [int(start), int(stop)],
            }:
                check_stored(SOURCE, name, dtype, stored, shape)
            case _:
                raise UserError(f"{SOURCE} has no tensor {name}")
        length = math.prod(shape) * DTYPES[dtype].itemsize
        if not (0 <= start and stop - start == length and begin + stop <= size):
            raise UserError(f"{SOURCE} has {name} at bytes {start} to {stop}")
        places[name] = Place(begin + start, begin + stop, DTYPES[dtype])
    places = dict(sorted(places.items(), key=lambda item: item[1]))
    stops = [0, *(place.stop for place in places.values())]
    for stop, (name, place) in zip(stops, places.items(), strict=False):
        if place.start < stop:
            raise UserError(f"{SOURCE} has {name} where another tensor is")
    return places


def join(places: Mapping[str, Place]) -> Iterator[tuple[int, int, list[str]]]:
    """Yields (start, stop, names) of the longest runs of neighbours among `places`."""
    names: list[str] = []
    for name, place in places.items():
        if names and places[names[-1]].stop != place.start:
            yield places[names[0]].start, places[names[-1]].stop, names
            names = []
        names.append(name)
    if names:
        yield places[names[0]].start, places[names[-1]].stop, names


def fetch(url: str, size: int, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """Fetches the named tensors of a .safetensors file, and little else of it.

    Args:
        url: of the file; a server that redirects https to http is refused.
        size: of the file, in bytes.
        shapes: {name: expected shape}.

    Returns:
        {name: float32 tensor}.

    Raises:
        OSError, http.client.HTTPException: the server cannot be reached, sends
            anything but the ranges asked for, or the file has another size.
        UserError: the file is not what is expected.
    """
    tensors = {}
    with tqdm(desc="weights", disable=None, unit="B", unit_scale=True) as bar:
        header, begin = read_header(url, size, bar)
        places = locate(header, begin, size, shapes)
        bar.reset(sum(place.stop - place.start for place in places.values()))
        for start, stop, names in join(places):
            data = read_range(url, start, stop, size, bar)
            for name in names:
                first, last, dtype = places[name]
                stored = np.frombuffer(data[first - start : last - start], dtype)
                stored = stored.reshape(shapes[name])
                tensors[name] = to_float32(SOURCE, name, stored)
    return tensors
