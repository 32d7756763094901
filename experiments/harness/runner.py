"""Runs a table: its command line, its workers, and the file that is written; see `experiments.tables`."""

import argparse
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence

from cglo_jax.config.profiles import PROFILES
from cglo_jax.errors import UserError
from cglo_jax.files import storage
from experiments.harness import estimate, machine, markdown, runs, work
from experiments.harness.scales import DATA, OWN_IMAGES, SCALES, SETTINGS
from experiments.harness.table import Table


def parse(table: Table, argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Returns:
      rows, columns, seeds: lists of what is run; choice: a `runs.Choice` of what the table
      shows, whose seeds are those of the scale and the ones that are run; and the others.

    Raises:
      UserError: the table has no such columns, rows or seeds.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.tables {table.name}", description=table.title
    )
    add = parser.add_argument
    add("--scale", choices=SCALES, default="cpu")
    add("--data", choices=DATA, help="the scale's first if not given")
    add("--profile", choices=PROFILES, default="paper")
    add("--seeds", default="", help="such as 0,1,2: run these, else the table's")
    add("--rows", default="", help="such as cGLO,Baseline: run these only")
    add("--columns", default="", help="such as 10,25: run these only")
    add("--jobs", type=int, help="processes; one per GPU if not given")
    add("--data_dir", default="", help="prepared TFDS directory")
    add("--workdir", type=pathlib.Path, default=pathlib.Path("runs/paper"))
    add("--dry_run", action="store_true", help="list the runs and the hours they need")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    known = [data for scale, data in table.columns if scale == options.scale]
    data = options.data or (known or [""])[0]
    if data not in known:
        raise UserError(
            f"{table.name} has no --scale={options.scale} with --data={data}: use "
            + " or ".join(f"--scale={s} --data={d}" for s, d in table.columns)
        )
    seeds = options.seeds.split(",") if options.seeds else []
    if not all(re.fullmatch(r"\d+", seed) for seed in seeds):
        raise UserError(f"--seeds={options.seeds}: they are whole numbers, as in 0,1,2")
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs={options.jobs}: it must be 1 or more")
    usual = table.seeds or SETTINGS[options.scale, data].seeds
    options.seeds = list(dict.fromkeys(map(int, seeds))) or list(usual)
    options.choice = runs.Choice(
        options.scale,
        data,
        options.profile,
        tuple(dict.fromkeys((*usual, *options.seeds))),
        options.data_dir,
    )
    columns = list(table.columns[options.scale, data])
    options.rows = select("rows", options.rows, [row.name for row in table.rows])
    options.columns = select("columns", options.columns, columns)
    return options


def select(option: str, text: str, names: Sequence[str]) -> list[str]:
    """Splits "cGLO,Baseline, tuned" into names, some of which have a comma; all for "".

    Raises:
      UserError: a part is no name; it lists them.
    """
    chosen, rest = [], text.strip()
    while rest:
        for name in sorted(names, key=len, reverse=True):
            if re.match(re.escape(name) + r"\s*(,|$)", rest, re.IGNORECASE):
                chosen.append(name)
                rest = rest[len(name) :].lstrip().removeprefix(",").lstrip()
                break
        else:
            known = "; ".join(names)
            raise UserError(
                f"--{option}={text}: there is no {rest!r}, there are: {known}"
            )
    return chosen or list(names)


def count_gpus() -> int:
    """Returns the NVIDIA GPUs that may be used, without starting JAX on them."""
    if os.environ.get("JAX_PLATFORMS", "").split(",")[0].strip().lower() == "cpu":
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [part.strip() for part in visible.split(",")]
        # As CUDA does: what stands behind -1, or behind nothing, is not seen.
        valid = itertools.takewhile(lambda n: n and not n.startswith("-"), names)
        return len(list(valid))
    if not shutil.which("nvidia-smi"):
        return 0
    listed = subprocess.run(
        ["nvidia-smi", "-L"], capture_output=True, text=True, check=False
    )
    return len(re.findall(r"^GPU \d+", listed.stdout, re.MULTILINE))


def worker_environment(worker: int, jobs: int, gpus: int) -> dict[str, str]:
    """Returns the environment of a worker: its GPU, or its share of the cores."""
    env = dict(os.environ)
    if gpus:
        visible = env.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
        env["CUDA_VISIBLE_DEVICES"] = visible.split(",")[worker % gpus].strip()
        sharing = -(-jobs // gpus)
        if sharing > 1:  # JAX takes three quarters of a GPU's memory for itself
            share = f"{0.9 / sharing:.2f}"
            env.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", share)
    else:
        # XLA:CPU makes as many threads as this says.
        env.setdefault("NPROC", str(max(1, machine.count_cores() // jobs)))
    return env


def spread_work(
    groups: Sequence[Sequence[runs.Run]], jobs: int
) -> list[list[Sequence[runs.Run]]]:
    """Shares groups of runs so that workers have about equally many steps, each in their order."""
    shares, steps = [[] for _ in range(jobs)], [0] * jobs
    longest_first = sorted(
        range(len(groups)), key=lambda i: -estimate.steps_of(groups[i])
    )
    for i in longest_first:
        least = steps.index(min(steps))
        shares[least].append(i)
        steps[least] += estimate.steps_of(groups[i])
    return [[groups[i] for i in sorted(share)] for share in shares if share]


def run_workers(
    command: Sequence[str], missing: Sequence[runs.Run], jobs: int, gpus: int
) -> None:
    """Runs `command` --worker in `jobs` processes and prints a line per run.

    A worker reads the digests of its runs from standard input. All write to one pipe: a
    line is written at once and stays whole.
    """
    read, write = os.pipe()
    processes = []
    try:
        for worker, share in enumerate(spread_work(work.group(missing), jobs)):
            process = subprocess.Popen(
                [*command, "--worker", f"--jobs={jobs}"],
                stdin=subprocess.PIPE,
                stdout=write,
                text=True,
                env=worker_environment(worker, jobs, gpus),
            )
            processes.append(process)
            digests = [run.digest for group in share for run in group]
            process.stdin.write("\n".join(digests))
            process.stdin.close()
        os.close(write)
        with os.fdopen(read, encoding="utf-8") as lines:
            for count, line in enumerate(lines, 1):
                print(f"{count}/{len(missing)} {line}", end="", flush=True)
        for worker, process in enumerate(processes):
            if process.wait():
                print(f"worker {worker} ended with status {process.returncode}")
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
            process.wait()


def run_here(missing: Sequence[runs.Run], root: pathlib.Path, jobs: int) -> None:
    """Runs in this process and prints a line per run."""
    lines = work.run_groups(work.group(missing), root, jobs)
    for count, line in enumerate(lines, 1):
        print(f"{count}/{len(missing)} {line}", flush=True)


def describe_profile(choice: runs.Choice, planned: Sequence[runs.Run]) -> str:
    """Returns what the first cGLO of a table has in place of the defaults, but for its images."""
    first = next((run for run in planned if run.cglo), None)
    if first is None:
        return f"Profile {choice.profile}."
    left_out = ("dataset.shots", "dataset.split_seed")  # in headings and the sentence
    fields = [
        f"{name}={value}"
        for name, value in runs.changes(first.config).items()
        if name not in left_out
    ]
    return (
        f"Profile {choice.profile}. {first.row} ({first.column}) differs from the defaults of "
        f"cglo_jax/config/defaults.py in: {', '.join(fields) or 'nothing'}."
    )


def write_table(
    table: Table, choice: runs.Choice, planned: Sequence[runs.Run], notes: Sequence[str]
) -> str:
    """Writes the table of all results there are, if there are any, and returns it."""
    scale, data = choice.scale, choice.data
    sentence, left = SETTINGS[scale, data].sentence, runs.missing(planned)
    if runs.own_images(choice) and not SETTINGS[scale, data].own_images:
        sentence += " " + OWN_IMAGES
    notes = [sentence, describe_profile(choice, planned), *notes]
    if left:
        notes.append(f"{len(left)} runs are missing.")
    tuned = {
        name: runs.tuned_sentence(choice, column.overrides["dataset.shots"])
        for name, column in table.columns[scale, data].items()
    }
    results = runs.results_of(planned)
    text = markdown.to_markdown(table, scale, data, results, notes, tuned)
    names = (table.name, scale, data, choice.profile)
    path = runs.RESULTS.with_name("-".join(names) + ".md")
    if results:
        storage.write_atomically(path, text)
    return text


def main(table: Table, argv: Sequence[str]) -> int:
    """Does what the command line asks for; returns the exit status, 1 if a run failed."""
    options = parse(table, argv)
    choice = options.choice
    planned, notes = runs.expand(table, choice)
    chosen = [
        run
        for run in planned
        if run.row in options.rows
        and run.column in options.columns
        and run.seed in options.seeds
    ]
    # What other code computed is not gone on with.
    root = options.workdir / f"v{runs.RESULTS_VERSION}"
    if options.worker:
        wanted = sys.stdin.read().split()
        of_worker = [r for r in runs.missing(chosen) if r.digest in wanted]
        for line in work.run_groups(work.group(of_worker), root, options.jobs):
            # One piece, also where Python does not buffer: workers share the pipe.
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
        return 0
    gpus = count_gpus()
    jobs = options.jobs or gpus or 1
    if options.dry_run:
        devices = min(jobs, gpus) or 1
        print("\n".join([*estimate.plan(choice, chosen, devices), *notes]))
        return 0
    missing = runs.missing(chosen)
    jobs = min(jobs, len(work.group(missing)))
    if jobs > 1:
        command = [sys.executable, "-m", "experiments.tables", table.name, *argv]
        run_workers(command, missing, jobs, gpus)
    else:
        run_here(missing, root, jobs)
    print("\n" + write_table(table, choice, planned, notes))
    if failed := runs.missing(chosen):
        print(f"{len(failed)} runs failed, see above the table", file=sys.stderr)
    return 1 if failed else 0
