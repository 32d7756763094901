"""How fast a training step is, against PyTorch's on the same machine.

    pip install -e '.[torch]'
    python -m experiments.benchmark_steps                 # all rows; some minutes on two cores
    python -m experiments.benchmark_steps --rows=cglo

Ours and PyTorch's, see torch_steps.py, take turns in one process: A B C A B C ..., as timings of
shared machines drift. A turn starts with a step that is not timed: memory that the last program
freed has to be allocated again. Printed are the medians and quartiles of a turn's seconds per step
and the median of the turns' ratios. Both have memory in huge pages where Linux leaves the choice,
see cglo_jax/process.py. With a GPU, networks compute in bfloat16. Images and weights are random:
they do not change the work. "Cached": VGG-16's features of the images are computed once. "With the
authors' passes" is our network with the passes of their code, not their network.
"""

import argparse
import datetime
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # PyTorch's threads do not spin
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # memory for both

import jax
import jax.numpy as jnp
import numpy as np
import torch
from ml_collections import ConfigDict

from cglo_jax import cglo, classifier, classify, loop, parallel, synthesis, train
from cglo_jax.data import Dataset
from cglo_jax.results import environment
from configs import cifar100, cub
from experiments import entry, torch_networks, torch_steps, work

RESULTS = pathlib.Path(__file__).parent / "results" / "benchmark_steps.jsonl"
AS_AUTHORS = "PyTorch with the authors' passes"
IMAGES = 1000  # in memory
Program = Callable[[], Any]  # takes a step, returns what to wait for


def on_gpu() -> bool:
    """Whether JAX computes on a GPU."""
    return jax.default_backend() == "gpu"


def create_dataset(config: ConfigDict, classes: int) -> Dataset:
    """Makes random images of the size that `config` trains on."""
    side = config.dataset.crop or config.dataset.size or 32
    rng = np.random.default_rng(0)
    n = IMAGES if side == 32 else 64
    return Dataset(
        images=rng.integers(0, 256, (n, side, side, 3), np.uint8),
        labels=(np.arange(n) % classes).astype(np.int32),
        class_names=tuple(map(str, range(classes))),
        ids=tuple(map(str, range(n))),
        split="train",
    )


def _prepare(config: ConfigDict) -> ConfigDict:
    config.external_weights = False
    config.reconstruction.weights = config.classify.weights = "random"
    config.dtype = "bfloat16" if on_gpu() else "float32"
    return config


def _batches(n: int, size: int) -> Callable[[], np.ndarray]:
    rng = np.random.default_rng(1)
    return lambda: rng.permutation(n)[:size].astype(np.int32)


def our_cglo(
    config: ConfigDict, dataset: Dataset, cache_gb: float
) -> tuple[Program, float]:
    """Returns (program, FLOPs of a step) of cGLO."""
    devices = tuple(parallel.choose_devices(1))
    spec = cglo.create_spec(config, dataset)
    vgg, _ = train.load_vgg(config)
    key, n, dim = jax.random.key(0), len(dataset.ids), config.latent.dim
    shared = cglo.create_shared(key, dataset, vgg, cache_gb, spec=spec)
    state = parallel.create_replicated(
        cglo.init_state, devices, key, spec=spec, n=n, dim=dim
    )
    step_fn = train.compiled_step(spec, True, devices)
    return _ours(step_fn, state, shared, devices, _batches(n, config.train.batch_size))


def our_classifier(config: ConfigDict, dataset: Dataset) -> tuple[Program, float]:
    """Returns (program, FLOPs of a step) of the baseline classifier."""
    devices = tuple(parallel.choose_devices(1))
    spec = classifier.create_spec(config, dataset, "baseline")
    n = len(dataset.ids)
    model = {"params": {}, "batch_stats": {}, "z": np.zeros((n, 0), np.float32)}
    sampler = synthesis.create_sampler(model, dataset)
    key = jax.random.key(0)
    shared = classifier.Shared(
        key, dataset.images, None, dataset.class_weights, sampler
    )
    state = parallel.create_replicated(classifier.init_state, devices, key, spec=spec)
    batches = _batches(n, config.classify.batch_size)
    return _ours(classify.compiled_step(spec, devices), state, shared, devices, batches)


def _ours(step_fn, state, shared, devices, batches) -> tuple[Program, float]:
    shared = parallel.replicate(shared, devices)
    first = parallel.shard(batches(), devices)
    flops = step_fn.lower(state, shared, first).cost_analysis()["flops"]

    def step() -> Any:
        nonlocal state
        state, metrics = step_fn(state, shared, parallel.shard(batches(), devices))
        return metrics

    return step, flops


def _to_torch(dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    device = "cuda" if on_gpu() else "cpu"
    images = torch.from_numpy(dataset.images).permute(0, 3, 1, 2)
    return images.to(device), torch.from_numpy(dataset.labels).long().to(device)


def _theirs(step: Callable, dataset: Dataset, size: int) -> Program:
    batches = _batches(len(dataset.ids), size)
    if not on_gpu():
        return lambda: step(torch.from_numpy(batches()).long())

    def upload_and_step() -> torch.Tensor:
        indices = torch.from_numpy(batches()).long().pin_memory()
        return step(indices.to("cuda", non_blocking=True))

    return upload_and_step


def create_cglo() -> tuple[dict[str, Program], float, int]:
    """The step of CIFAR-100's shape: (programs, FLOPs of "ours", batch size)."""
    config = _prepare(cifar100.get_config("10"))
    dataset = create_dataset(config, 100)
    size = config.train.batch_size
    images, labels = _to_torch(dataset)
    plain, flops = our_cglo(config, dataset, 0)
    programs = {"ours, cached": our_cglo(config, dataset, 4)[0], "ours": plain}
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
    config = _prepare(config)
    config.classify.dropout = 0.0
    config.classify.batch_size = config.classify.batch_size if on_gpu() else 16
    dataset = create_dataset(config, classes)
    ours, flops = our_classifier(config, dataset)
    size, pad = config.classify.batch_size, config.classify.pad
    step = torch_steps.classifier_step(net, *_to_torch(dataset), pad)
    return {"ours": ours, "PyTorch": _theirs(step, dataset, size)}, flops, size


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
    """Waits until what a step returned is computed."""
    if isinstance(result, torch.Tensor):
        if result.is_cuda:
            torch.cuda.synchronize()
    else:
        jax.block_until_ready(result)


def take_turns(
    programs: Mapping[str, Program], turns: int, steps: int
) -> dict[str, list[float]]:
    """Returns {program: seconds per step of each turn}, after two turns to warm up."""
    times = {name: [] for name in programs}
    for turn in range(turns + 2):
        for name, step in programs.items():
            wait(step())
            began = time.perf_counter()
            for _ in range(steps):
                result = step()
            wait(result)
            if turn >= 2:
                times[name].append((time.perf_counter() - began) / steps)
    return times


def matmul_peak(n: int, repeats: int = 5) -> float:
    """Returns the FLOP/s of the best of some products of n x n matrices in the step's type."""
    x = jnp.ones((n, n), jnp.bfloat16 if on_gpu() else jnp.float32)
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
        low, middle, high = statistics.quantiles(seconds, n=4)
        share = f"{100 * flops / middle / peak:.0f}" if name == "ours" else ""
        ratios = [
            f"{statistics.median(t / o for t, o in zip(seconds, own, strict=True)):.2f}"
            if name not in ours
            else ""
            for own in ours.values()
        ]
        spread = f"{1000 * middle:.1f} ({1000 * low:.1f}-{1000 * high:.1f})"
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
    torch.set_num_threads(work.count_cores())
    steps = args.steps or (50 if on_gpu() else 2)
    peak = matmul_peak(8192 if on_gpu() else 2048)
    print(f"matrix product: {peak / 1e9:,.0f} GFLOP/s\n")
    ratio = "speed of ours over it: cached / not"
    print(f"| row | program | ms a step | % of it | {ratio} |")
    print("|---|---|---|---|---|")
    for row in args.rows.split(","):
        programs, flops, size = ROWS[row]()
        times = take_turns(programs, args.turns, steps)
        print(to_markdown(row, times, flops, peak), flush=True)
        record = {
            "row": row,
            "batch_size": size,
            "dtype": "bfloat16" if on_gpu() else "float32",
            "seconds_per_step": times,
            "steps_per_turn": steps,
            "flops": flops,
            "matmul_flops_per_s": peak,
            "torch": torch.__version__,
            "torch_threads": torch.get_num_threads(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "platform": platform.platform(),
            "cores": work.count_cores(),
            "settings": {
                name: os.environ.get(name) for name in ("XLA_FLAGS", "GLIBC_TUNABLES")
            },
            "environment": environment(jax.local_devices()[:1]),
        }
        loop.append_record(RESULTS, record)


if __name__ == "__main__":
    entry.run(main)
