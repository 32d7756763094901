"""How fast a training step is, against PyTorch's on the same machine.

    pip install -e '.[torch]'
    python -m experiments.speed.steps                 # all rows; some minutes on two cores
    python -m experiments.speed.steps --rows=cglo

Ours and PyTorch's, see torch_steps.py, take turns in one process. Printed are the medians and
quartiles of a turn's seconds per step and the median of the turns' ratios. Both have memory in huge pages where Linux leaves the choice,
see cglo_jax/process/setup.py. With a GPU, networks compute in bfloat16. Images and weights are random:
they do not change the work. "Cached": VGG-16's features of the images are computed once. "With the
authors' passes" is our network with the passes of their code, not their network.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # PyTorch's threads do not spin
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # memory for both

import jax
import jax.numpy as jnp
import torch
from ml_collections import ConfigDict

from cglo_jax.data.dataset import Dataset
from cglo_jax.files import storage
from configs import cifar100, cub
from experiments.harness import entry, machine, paths
from experiments.parity import torch_networks
from experiments.speed import torch_steps
from experiments.speed.our_steps import (
    Program,
    create_batches,
    create_dataset,
    our_cglo,
    our_classifier,
    prepare,
    prepare_classifier,
    quartiles,
    take_turns,
)

RESULTS = paths.RESULTS / "benchmark_steps.jsonl"
PER_CALL = 10  # steps, on a GPU
AS_AUTHORS = "PyTorch with the authors' passes"


def _to_torch(dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    device = "cuda" if machine.on_gpu() else "cpu"
    images = torch.from_numpy(dataset.images).permute(0, 3, 1, 2)
    return images.to(device), torch.from_numpy(dataset.labels).long().to(device)


def _theirs(step: Callable, dataset: Dataset, size: int) -> Program:
    batches = create_batches(len(dataset.ids), size)
    if not machine.on_gpu():
        return lambda: step(torch.from_numpy(batches()).long())

    def upload_and_step() -> torch.Tensor:
        indices = torch.from_numpy(batches()).long().pin_memory()
        return step(indices.to("cuda", non_blocking=True))

    return upload_and_step


def create_cglo() -> tuple[dict[str, Program], float, int]:
    """The step of CIFAR-100's shape: (programs, FLOPs of "ours", batch size)."""
    config = prepare(cifar100.get_config("10"))
    dataset = create_dataset(config, 100)
    size = config.train.batch_size
    images, labels = _to_torch(dataset)
    plain, cached = (our_cglo(config, dataset, gb) for gb in (0, 4))
    flops = plain.count_flops()
    programs = {
        "ours, cached": cached.create_program(),
        "ours": plain.create_program(),
    }
    if machine.on_gpu():
        again = our_cglo(config, dataset, 4)
        programs[f"ours, cached, {PER_CALL} a call"] = again.create_program(PER_CALL)
    for name in ("PyTorch, cached", "PyTorch", AS_AUTHORS):
        as_authors = name == AS_AUTHORS
        theirs = torch_steps.CGLO(images, labels, 100, as_authors=as_authors)
        if "cached" in name:
            theirs.cache()
        programs[name] = _theirs(theirs.step, dataset, size)
    return programs, flops, size


def create_classifier(
    config: ConfigDict, classes: int, net: torch.nn.Module
) -> tuple[dict[str, Program], float, int]:
    """The step of a classifier, of 16 images or on a GPU the configuration's, see `create_cglo`."""
    prepare_classifier(config)
    dataset = create_dataset(config, classes)
    ours = our_classifier(config, dataset)
    flops = ours.count_flops()
    size, pad = config.classify.batch_size, config.classify.pad
    step = torch_steps.classifier_step(net, *_to_torch(dataset), pad)
    return (
        {"ours": ours.create_program(), "PyTorch": _theirs(step, dataset, size)},
        flops,
        size,
    )


ROWS = {
    "cglo": create_cglo,
    "wrn28_10": lambda: create_classifier(
        cifar100.get_config("10"), 100, torch_networks.WideResNet()
    ),
    "resnet50": lambda: create_classifier(
        cub.get_config("10"), 200, torch_networks.ResNet50(200)
    ),
}


def wait(result: Any) -> None:
    """Waits until what a step of ours or of PyTorch's returned is computed."""
    if isinstance(result, torch.Tensor):
        if result.is_cuda:
            torch.cuda.synchronize()
    else:
        jax.block_until_ready(result)


def matmul_peak(n: int, repeats: int = 5) -> float:
    """Returns the FLOP/s of the best of some products of n x n matrices in the step's type."""
    x = jnp.ones((n, n), machine.compute_dtype())
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(x))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(product(x))
        times.append(time.perf_counter() - began)
    return 2 * n**3 / min(times)


def to_markdown(
    row: str, times: Mapping[str, Sequence[float]], flops: float, peak: float
) -> str:
    """Returns a line per program: its time, share of the matrix product's speed, ours over it."""
    lines = []
    ours = {name: times[name] for name in times if name.startswith("ours")}
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        share = f"{100 * flops / middle / peak:.0f}" if name == "ours" else ""
        ratios = [
            f"{statistics.median(t / o for t, o in zip(seconds, own, strict=True)):.2f}"
            if name not in ours
            else ""
            for own in ours.values()
        ]
        spread = quartiles([1000 * s for s in seconds], ".1f")
        cells = [row, name, spread, share, " / ".join(filter(None, ratios))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measures the rows and appends a line each to RESULTS."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, help="of a turn; 2, on a GPU 50")
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    torch.set_num_threads(machine.count_cores())
    steps = args.steps or (50 if machine.on_gpu() else 2)
    peak = matmul_peak(8192 if machine.on_gpu() else 2048)
    print(f"matrix product: {peak / 1e9:,.0f} GFLOP/s\n")
    ratio = "speed of ours over it, one after the other"
    print(f"| row | program | ms a step | % of it | {ratio} |")
    print("|---|---|---|---|---|")
    for row in args.rows.split(","):
        programs, flops, size = ROWS[row]()
        times = take_turns(programs, args.turns, steps, wait)
        print(to_markdown(row, times, flops, peak), flush=True)
        record = {
            "row": row,
            "batch_size": size,
            "seconds_per_step": times,
            "steps_per_turn": steps,
            "flops": flops,
            "matmul_flops_per_s": peak,
            "torch": torch.__version__,
            "torch_threads": torch.get_num_threads(),
            **machine.describe(),
        }
        storage.append_record(RESULTS, record)


if __name__ == "__main__":
    entry.run(main)
