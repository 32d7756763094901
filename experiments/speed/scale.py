"""What the number of images costs: time of a step, and memory that is projected and allocated.

    python -m experiments.speed.scale                 # some minutes on two cores, 8 GB
    python -m experiments.speed.scale --n=1000,100000

cGLO's step of CIFAR-100's shape with codes and pixels of n images, no cached features, takes turns
with itself at other n in one process. The second table has the memory of a step of each network,
see cglo_jax/training/memory.py, and what XLA allocates for it; images and weights are random.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cglo_jax.files import storage
from cglo_jax.training import memory
from configs import cifar100, cub
from experiments.harness import entry, machine, paths
from experiments.speed import our_steps

RESULTS = paths.RESULTS / "benchmark_scale.jsonl"
MB = 1e6


def create_networks() -> dict[str, our_steps.Ours]:
    """Returns the steps whose memory is compared, classifiers' of 16 images or on a GPU more."""
    config = our_steps.prepare(cifar100.get_config("10"))
    dataset = our_steps.create_dataset(config, 100)
    steps = {
        "cGLO": our_steps.our_cglo(config, dataset, 0),
        "cGLO, cached": our_steps.our_cglo(config, dataset, 4),
    }
    for name, config, classes in (
        ("WRN-28-10", cifar100.get_config("10"), 100),
        ("ResNet-50", cub.get_config("10"), 200),
    ):
        our_steps.prepare_classifier(config)
        dataset = our_steps.create_dataset(config, classes)
        steps[name] = our_steps.our_classifier(config, dataset)
    return steps


def measure_memory(ours: our_steps.Ours) -> dict[str, int]:
    """Returns bytes of a step: its arguments and its own arrays."""
    parts = memory.project(ours.step_fn, ours.state, ours.shared, ours.shard())
    own = parts.pop("a step")
    return {"arguments": sum(parts.values()), "own": own}


def times_to_markdown(times: Mapping[int, Sequence[float]]) -> str:
    """Returns a table of seconds per step by n, each over the first n's in the same turn."""
    lines = ["| n | ms a step | over the first |", "|---|---|---|"]
    first = next(iter(times.values()))
    for n, seconds in times.items():
        ratios = [own / base for own, base in zip(seconds, first, strict=True)]
        cells = [
            f"{n:,}",
            our_steps.quartiles([1000 * s for s in seconds], ".1f"),
            f"{statistics.median(ratios):.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def memory_to_markdown(rows: Mapping[str, Mapping[str, int]]) -> str:
    """Returns a table of what `measure_memory` found, in MB."""
    lines = [
        "| step | arguments | own arrays |",
        "|---|---|---|",
    ]
    for name, row in rows.items():
        sizes = [f"{row[key] / MB:,.1f}" for key in ("arguments", "own")]
        lines.append(f"| {' | '.join([name, *sizes])} |")
    return "\n".join(lines)


def main() -> None:
    """Measures, prints both tables and appends a line to RESULTS."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", default="1000,1000000")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=2, help="of a turn")
    args = parser.parse_args()
    memories: dict[str, Any] = {
        name: measure_memory(ours) for name, ours in create_networks().items()
    }
    print(memory_to_markdown(memories), flush=True)
    config = our_steps.prepare(cifar100.get_config("10"))
    steps = {}
    for n in map(int, args.n.split(",")):
        dataset = our_steps.create_dataset(config, 100, n)
        steps[n] = our_steps.our_cglo(config, dataset, 0)
    by_n = {n: measure_memory(ours) for n, ours in steps.items()}
    programs = {n: steps.pop(n).create_program() for n in list(steps)}
    times = our_steps.take_turns(programs, args.turns, args.steps)
    print(f"\n{times_to_markdown(times)}\n")
    low, high = min(by_n), max(by_n)
    if low < high:
        grown = by_n[high]["arguments"] - by_n[low]["arguments"]
        print(f"each image more: {grown / (high - low):,.1f} bytes of arguments")
    record = {
        "memory": memories,
        "memory_by_n": by_n,
        "seconds_per_step": times,
        "steps_per_turn": args.steps,
        **machine.describe(),
    }
    storage.append_record(RESULTS, record)


if __name__ == "__main__":
    entry.run(main)
