"""Classifies image files with what a run has trained.

    python -m cglo_jax.predict --workdir=runs/mine --method=cglo FILE_OR_DIR...

Prints a table with tabs: file, class and the class's probability, the mean over the seeds. Files
that cannot be read are told on standard error; the exit status is 2 then.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from cglo_jax import platforms
from cglo_jax.errors import UserError, printable

_AT_ONCE = 256  # files that are decoded before their lines are printed


def find_files(given: Iterable[str]) -> Iterator[Path]:
    """Yields the files named, and those in the folders named, at any depth, as they were named.

    Raises:
      UserError: one is not there, or a folder has no file.
    """
    from cglo_jax import class_folders  # what it imports is slow

    for path in map(Path, given):
        if path.is_dir():
            files = list(class_folders.walk(path.resolve()))
            if not files:
                raise UserError(f"there is no file in {path}")
            yield from (path / file.relative_to(path.resolve()) for file in files)
        elif os.path.lexists(path):
            yield path
        else:
            raise UserError(f"there is no file {path}")


def predict(workdir: str, method: str, seed: int | None, files: list[Path]) -> bool:
    """Prints a line for each file that can be read; returns whether all could be.

    Raises:
      UserError: there is no such classifier.
      OSError: the lines cannot be written; BrokenPipeError: nobody reads them any more.
    """
    import numpy as np

    from cglo_jax import decode, ensemble, streams

    classifier = ensemble.load(workdir, method, seed)
    print("file\tclass\tprobability")
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
            print(f"{printable(file)}\t{printable(name)}\t{p:.4f}", flush=True)
        streams.check_output()
    return not unusable


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns 0, 2 after an error or 130 when stopped."""
    parser = argparse.ArgumentParser("python -m cglo_jax.predict")
    parser.add_argument("--workdir", required=True, help="the --workdir of the run")
    parser.add_argument(
        "--method", required=True, help="how it was trained, such as cglo or baseline"
    )
    parser.add_argument("--seed", type=int, help="of one classifier; default: all")
    parser.add_argument(
        "files", nargs="+", metavar="FILE_OR_DIR", help="images of any size"
    )
    args = parser.parse_args(argv)
    try:
        platforms.start()
        files = list(dict.fromkeys(find_files(args.files)))
        return 0 if predict(args.workdir, args.method, args.seed, files) else 2
    except BrokenPipeError:  # whoever read the lines has had enough
        return 0
    except (UserError, OSError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not (text := platforms.explain_memory(error)):
            raise
        print(f"error: {printable(text)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    from cglo_jax import process

    process.start()
    sys.exit(main())
