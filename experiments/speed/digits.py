"""How long the README's first run takes, and its memory, as a whole process.

    python -m experiments.speed.digits                # 3 runs, 6 minutes on two cores

`python -m cglo_jax.main --config=configs/digits.py --stage=all` in a new work directory: imports,
compilation, three seeds of everything, figures and report. The first run finds no compiled programs
of earlier calls; the others find those of the first.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile

from cglo_jax.errors import UserError
from cglo_jax.files import storage
from experiments.harness import entry, machine, paths, watched

RESULTS = paths.RESULTS / "benchmark_digits.jsonl"
COMMAND = ("-m", "cglo_jax.main", "--config=configs/digits.py", "--stage=all")


def main() -> None:
    """Measures the runs and appends a line to RESULTS."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    print("| run | seconds | most memory, GB |\n|---|---|---|")
    runs = []
    with tempfile.TemporaryDirectory() as directory:
        os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
        os.environ["CGLO_CACHE"] = directory
        for i in range(args.runs):
            log = pathlib.Path(directory, f"{i}.log")
            command = [sys.executable, *COMMAND, f"--workdir={directory}/{i}"]
            usage = watched.run(command, log)
            if usage.status:
                raise UserError(f"the run failed: {log.read_text()[-500:]}")
            runs.append({"wall_s": usage.wall_s, "peak_gb": usage.peak_gb})
            print(f"| {i + 1} | {usage.wall_s:.1f} | {usage.peak_gb:.2f} |", flush=True)
    if len(runs) > 1:
        again = statistics.median(r["wall_s"] for r in runs[1:])
        print(f"\nwith compiled programs of the first run: {again:.1f} s (median)")
    storage.append_record(RESULTS, {"runs": runs, **machine.describe()})


if __name__ == "__main__":
    entry.run(main)
