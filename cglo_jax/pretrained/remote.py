"""Named tensors of a .safetensors file on a server, by HTTP range requests.

Format: 8 bytes with the header's length n, n bytes of JSON with each tensor's type, shape
and place, then the tensors. The server is not trusted: each answer must be exactly the
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

_HEADER_LIMIT = MIB  # bytes; the headers of published networks are some kB
_SOURCE = "the server's file"  # in messages


class _Place(NamedTuple):
    """A tensor's bytes [start, stop) in the file, and their type."""

    start: int
    stop: int
    dtype: np.dtype


class _StayEncrypted(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but none from https to anything else."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if req.type == "https" and not newurl.lower().startswith("https:"):
            refusal = f"the server redirects from https to {newurl}"
            raise urllib.error.HTTPError(req.full_url, code, refusal, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _append_range(
    url: str, data: bytearray, start: int, stop: int, size: int, bar: tqdm
) -> None:
    """Appends to `data` the bytes of [start, stop) that it lacks, over one connection.

    Args:
        url: the address of a file of `size` bytes.
        bar: a progress bar of bytes.

    Raises:
        OSError, http.client.HTTPException: the connection failed or ended early, or the
            server's answer is not that range of a file of that size.
    """
    first = start + len(data)
    headers = {"User-Agent": "cglo-jax", "Range": f"bytes={first}-{stop - 1}"}
    request = urllib.request.Request(url, headers=headers)
    opener = urllib.request.build_opener(_StayEncrypted)
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
        # Into a buffer: `read` takes a chunk of negative length for the end of the answer.
        buffer = memoryview(bytearray(MIB // 4))
        while count := response.readinto(buffer[: stop - start - len(data)]):
            data += buffer[:count]
            bar.update(count)
    if len(data) < stop - start:
        raise OSError(f"the connection ended after {len(data)} of {stop - start} bytes")


def _read_range(url: str, start: int, stop: int, size: int, bar: tqdm) -> bytes:
    """Returns bytes [start, stop) of a file of `size` bytes.

    Raises:
        OSError, http.client.HTTPException: they cannot be fetched.
    """
    data = bytearray()
    keep_trying(
        lambda: _append_range(url, data, start, stop, size, bar), lambda: len(data)
    )
    return bytes(data)


def _read_header(url: str, size: int, bar: tqdm) -> tuple[dict, int]:
    """Returns ({tensor name: its entry, not checked}, at which byte the tensors begin).

    Raises:
        UserError: the header is too long, or is not a JSON object.
        OSError, http.client.HTTPException: it cannot be fetched.
    """
    length = int.from_bytes(_read_range(url, 0, 8, size, bar), "little")
    if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
        raise UserError(f"{_SOURCE} has a header of {length} bytes")
    text = _read_range(url, 8, 8 + length, size, bar)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise UserError(f"{_SOURCE} has a header that is not a JSON object")
    return header, 8 + length


def _locate(header: dict, begin: int, size: int, shapes: Mapping[str, Shape]) -> dict:
    """Returns {name: _Place} of the tensors of `shapes`, in the file's order.

    Args:
        header: {name: entry}, as the server sent it.
        begin: where the tensors begin, in bytes.
        size: the file's size in bytes.

    Raises:
        UserError: a tensor is absent or of another type or shape, or its bytes are
            too few or too many, outside the file, or also another tensor's.
    """
    places = {}
    for name, shape in shapes.items():
        match header.get(name):
            case {
                "dtype": str(dtype),
                "shape": list(stored),
                "data_offsets": [int(start), int(stop)],
            }:
                check_stored(_SOURCE, name, dtype, stored, shape)
            case _:
                raise UserError(f"{_SOURCE} has no tensor {name}")
        length = math.prod(shape) * DTYPES[dtype].itemsize
        if not (0 <= start and stop - start == length and begin + stop <= size):
            raise UserError(f"{_SOURCE} has {name} at bytes {start} to {stop}")
        places[name] = _Place(begin + start, begin + stop, DTYPES[dtype])
    places = dict(sorted(places.items(), key=lambda item: item[1]))
    stops = [0, *(place.stop for place in places.values())]
    for stop, (name, place) in zip(stops, places.items(), strict=False):
        if place.start < stop:
            raise UserError(f"{_SOURCE} has {name} where another tensor is")
    return places


def _join(places: Mapping[str, _Place]) -> Iterator[tuple[int, int, list[str]]]:
    """Yields (start, stop, names) of the longest runs of adjacent `places`, which are sorted."""
    names: list[str] = []
    for name, place in places.items():
        if names and places[names[-1]].stop != place.start:
            yield places[names[0]].start, places[names[-1]].stop, names
            names = []
        names.append(name)
    if names:
        yield places[names[0]].start, places[names[-1]].stop, names


def fetch(url: str, size: int, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """Fetches only the header and the named tensors of a .safetensors file.

    Args:
        url: the file's address; a server that redirects https to http is refused.
        size: the file's size in bytes.
        shapes: {name: expected shape}.

    Returns:
        {name: float32 tensor [shapes[name]]}.

    Raises:
        OSError, http.client.HTTPException: the server cannot be reached, sends
            anything but the ranges asked for, or the file has another size.
        UserError: the file is not what is expected.
    """
    tensors = {}
    with tqdm(desc="weights", disable=None, unit="B", unit_scale=True) as bar:
        header, begin = _read_header(url, size, bar)
        places = _locate(header, begin, size, shapes)
        bar.reset(sum(place.stop - place.start for place in places.values()))
        for start, stop, names in _join(places):
            data = _read_range(url, start, stop, size, bar)
            for name in names:
                first, last, dtype = places[name]
                stored = np.frombuffer(data[first - start : last - start], dtype)
                stored = stored.reshape(shapes[name])
                tensors[name] = to_float32(_SOURCE, name, stored)
    return tensors
