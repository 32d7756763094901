"""Classifies image files with the classifiers that a run has trained.

    python -m cglo_jax.predict --workdir=runs/mine --method=cglo FILE_OR_DIR...

Files that cannot be read are listed on standard error; the exit status is 2 then.
"""

import argparse
import itertools
import os
import sys

from cglo_jax.errors import UserError, printable
from cglo_jax.process import platforms, setup


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns 0, 2 after an error or 130 when stopped."""
    given = sys.argv[1:] if argv is None else argv
    for name in itertools.takewhile(lambda name: name != "--", given):
        if name.startswith("-") and os.path.lexists(name):
            text = f"error: {printable(name)} is taken for a flag: write ./{printable(name)}"
            print(text, file=sys.stderr)
            return 2
    parser = argparse.ArgumentParser("python -m cglo_jax.predict")
    add = parser.add_argument
    add("--workdir", required=True, help="the --workdir of the run")
    add(
        "--method",
        required=True,
        help="method whose classifiers to use, such as cglo or baseline",
    )
    add(
        "--seed",
        type=int,
        help="use only the classifier of this seed; default: the mean over all seeds",
    )
    add("files", nargs="+", metavar="FILE_OR_DIR", help="images of any size")
    add(
        "--safe-for-spreadsheets",
        action="store_true",
        help="put a ' before names that a spreadsheet would take for a formula",
    )
    args = parser.parse_args(argv)
    try:
        platforms.start()
        from cglo_jax.stages import predict  # imports JAX

        files = list(dict.fromkeys(predict.find_files(args.files)))
        neutral = args.safe_for_spreadsheets
        usable = predict.run(args.workdir, args.method, args.seed, files, neutral)
        return 0 if usable else 2
    except BrokenPipeError:  # whoever read the lines has had enough
        return 0
    except KeyboardInterrupt:
        return 130
    except (UserError, OSError) as error:
        text = str(error)
    except Exception as error:
        if not (text := platforms.explain_memory(error)):
            raise
    print(f"error: {printable(text)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    setup.start()
    sys.exit(main())
