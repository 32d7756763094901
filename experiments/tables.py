"""Runs a table of the paper, or of ours, and writes it with the paper's numbers beside ours.

    python -m experiments.tables table1 --scale=cpu --data=digits [--jobs=2] [--dry_run]

There are table1 to table6 and cifar10 (paper_tables.py), study, confirm and precision (our_tables.py). Every run
is a line of results/paper.jsonl; what has one is not repeated, in whichever table it was run first,
and what was cut off goes on from its checkpoint. The table is rebuilt from these lines, printed and
written to results/<table>-<scale>-<data>-<profile>.md. It is always the whole table; --rows,
--columns and --seeds choose what is run. Images are read and weights found as by
`python -m cglo_jax.main`.
"""

import argparse
import sys
from collections.abc import Sequence

from experiments import our_tables, paper_tables
from experiments.harness import entry, runner

TABLES = {t.name: t for t in (*paper_tables.TABLES, *our_tables.TABLES)}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the table that the first argument names; returns the exit status, 1 if a run failed."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m experiments.tables",
        description=__doc__.splitlines()[0],
        epilog="Each has options of its own: python -m experiments.tables table1 --help",
    )
    parser.add_argument("table", choices=TABLES)
    name = parser.parse_args(argv[:1]).table
    return runner.main(TABLES[name], argv[1:])


if __name__ == "__main__":
    entry.run(main)
