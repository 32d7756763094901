"""How long the README's first run takes, and its memory, as a whole process.

    python -m experiments.benchmark_digits                # 3 runs, 8 minutes on two cores

`python -m cglo_jax.main --config=configs/digits.py --stage=all` in a new work directory: imports,
compilation, three seeds of everything, figures and report. The first run finds no compiled programs
of earlier calls; the others find those of the first.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from cglo_jax import loop
from cglo_jax.errors import UserError
from experiments import entry, machine

RESULTS = pathlib.Path(__file__).parent / "results" / "benchmark_digits.jsonl"


def run(directory: pathlib.Path, name: str) -> tuple[float, float]:
    """Runs the command once, programs kept in `directory` -> (seconds, most GB in memory)."""
    command = [sys.executable, "-m", "cglo_jax.main", "--config=configs/digits.py"]
    command += [f"--workdir={directory / name}", "--stage=all"]
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(directory / "programs"),
    }
    log = directory / f"{name}.log"
    began = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if process.returncode or os.waitstatus_to_exitcode(status):
        raise UserError(f"{' '.join(command)} failed: {log.read_text()[-500:]}")
    return seconds, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    """Measures the runs and appends a line to RESULTS."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    print("| run | seconds | most memory, GB |\n|---|---|---|")
    runs = []
    with tempfile.TemporaryDirectory() as directory:
        for i in range(args.runs):
            seconds, memory = run(pathlib.Path(directory), str(i))
            runs.append({"wall_s": seconds, "most_gb": memory})
            print(f"| {i + 1} | {seconds:.1f} | {memory:.2f} |", flush=True)
    if len(runs) > 1:
        again = statistics.median(r["wall_s"] for r in runs[1:])
        print(f"\nwith compiled programs of the first run: {again:.1f} s (median)")
    loop.append_record(RESULTS, {"runs": runs, **machine.describe()})


if __name__ == "__main__":
    entry.run(main)
