"""A cache folder of its own for each test, and a server that publishes small weights."""

from collections.abc import Iterator

import pytest

from tests.helpers.published_weights import Server, isolate, serve


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path) -> None:
    isolate(monkeypatch, tmp_path)


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    with serve(monkeypatch) as running:
        yield running
