"""Classifies image files with the classifiers that a run has trained, and prints a table.

A line has a file, its class and the class's probability, the mean over the seeds. It is UTF-8 with
tabs, and quotes where names need them, as Python's csv and pandas write and read it: every name is
read back exactly. Bytes of names that are not UTF-8 are written as they are
(read them with errors="surrogateescape"). A terminal gets escapes in place of characters that it cannot show.
"""

import csv
import io
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from cglo_jax.data import decode, layout
from cglo_jax.errors import UserError, printable
from cglo_jax.inference import classifier as inference
from cglo_jax.process import streams

_AT_ONCE = 256  # files that are decoded before their lines are printed
# What begins a formula, or may be dropped before one; ' is the mark itself
_FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20'"


def find_files(given: Iterable[str]) -> Iterator[Path]:
    """Yields the files named, and those in the folders named, at any depth, as they were named.

    Raises:
      UserError: one is not there, or a folder has no file.
    """
    for path in map(Path, given):
        if path.is_dir():
            files = list(layout.walk(path.resolve()))
            if not files:
                raise UserError(f"there is no file in {path}")
            yield from (path / file.relative_to(path.resolve()) for file in files)
        elif os.path.lexists(path):
            yield path
        else:
            raise UserError(f"there is no file {path}")


def format_row(cells: Iterable[str], neutral: bool = False) -> str:
    """Returns one line of the table, which csv readers read back to these cells.

    Args:
      neutral: put a ' before what spreadsheets would take for a formula.
    """
    if neutral:
        cells = [f"'{c}" if _may_be_formula(c) else c for c in cells]
    line = io.StringIO()
    # With both ends of lines, cells that have either are quoted.
    csv.writer(line, delimiter="\t", lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n") + "\n"


def _may_be_formula(cell: str) -> bool:
    return cell[:1] in ("\t", "\r", "\n") or cell.lstrip()[:1] in tuple(_FORMULA)


def _print_row(cells: Iterable[str], neutral: bool) -> None:
    """Prints a row as a reader reads it back or, on a terminal, as a person does."""
    if sys.stdout.isatty():
        print("\t".join(map(printable, cells)), flush=True)
        return
    row = format_row(cells, neutral)
    if binary := getattr(sys.stdout, "buffer", None):
        sys.stdout.flush()
        binary.write(row.encode("utf-8", "surrogateescape"))
        binary.flush()
    else:  # a notebook's
        sys.stdout.write(row)


def run(
    workdir: str,
    method: str,
    seed: int | None,
    files: list[Path],
    neutral: bool = False,
) -> bool:
    """Prints a line for each file that can be read; returns whether all could be.

    Args:
      workdir: the --workdir of a run.
      method: a method of the run's `classify.methods`.
      seed: the seed of one classifier; None: the mean over the classifiers of all seeds.
      files: see `find_files`.
      neutral: see `format_row`.

    Raises:
      UserError: there is no such classifier.
      OSError: the lines cannot be written; BrokenPipeError: nobody reads them any more.
    """
    classifier = inference.load(workdir, method, seed)
    _print_row(("file", "class", "probability"), neutral)
    unusable = 0
    for start in range(0, len(files), _AT_ONCE):
        part = files[start : start + _AT_ONCE]
        images = dict(zip(part, classifier.read(part), strict=True))
        for file, image in images.items():
            if isinstance(image, decode.UnusableImage):
                print(f"{printable(file)}: {image}", file=sys.stderr)
                unusable += 1
        usable = {f: i for f, i in images.items() if isinstance(i, np.ndarray)}
        stacked = np.reshape(list(usable.values()), (-1, *classifier.image_shape))
        names, probabilities = classifier.predict(stacked.astype(np.uint8))
        highest = probabilities.max(-1, initial=0)
        for file, name, p in zip(usable, names, highest, strict=True):
            _print_row((str(file), name, f"{p:.4f}"), neutral)
        streams.check_output()
    return not unusable
