"""VGG-16, ResNet-50 and WRN-28-10 against PyTorch: same weights, same images, same values.

    python -m experiments.parity.networks                   # needs PyTorch; two minutes
    python -m experiments.parity.networks --write_golden    # needs torchvision too

Random weights and images are given to the networks of cglo_jax and to PyTorch's: those of
torchvision if it can be imported, else definitions written anew in torch_networks.py (for
WRN-28-10 always). Compared are all taps, the gradient of a scalar with respect to the
images and, in training, the updated running means and variances, each relative to its
largest magnitude. PyTorch's running variances are converted first: they are averages of
unbiased variances, Flax's of biased ones.

In float64 all must agree to 1e-4, and in float32 to 1e-4 or to three times PyTorch's own
rounding error (its float32 against its float64), whichever is larger; else the exit status
is 1. Rounding matters to the gradient at 224 px, which jumps where one of millions of ReLUs
or maxima is within rounding of switching, and to deep batch norm in training, which
magnifies it. Prints a Markdown table and, at its end, replaces RESULTS by its rows.

The second form writes the values that tests/experiments/parity/networks_test.py compares with where there is no
PyTorch.
"""

import argparse
import importlib
import importlib.metadata
import json
import platform
from typing import Any, NamedTuple

import jax
import numpy as np

from cglo_jax.files import storage
from cglo_jax.workdir.results import environment
from experiments.harness import entry, machine, paths
from experiments.parity import flax_networks

RESULTS = paths.RESULTS / "parity.jsonl"
GOLDEN = paths.ROOT / "tests" / "golden"
TOLERANCE = 1e-4
ROUNDINGS = 3  # how many times PyTorch's own rounding error float32 may differ
GOLDEN_VALUES = 40  # of each tap, drawn at random


class Case(NamedTuple):
    """A comparison.

    Attributes:
      network: 'vgg16', 'resnet50' or 'wrn28_10'.
      side: Of the images, in pixels.
      batch: Number of images.
      train: Normalise by batch statistics. The images are then taken as they are: the
        float32 constants of ImageNet's normalisation would hide errors of float64.
    """

    network: str
    side: int
    batch: int = 1
    train: bool = False

    def images(self, dtype: str) -> np.ndarray:
        """Draws images [batch, side, side, 3] in [-1, 1], exact in float32."""
        shape = (self.batch, self.side, self.side, 3)
        x = np.random.RandomState(1).uniform(-1, 1, shape)
        return x.astype(np.float32).astype(dtype)


CASES = (
    Case("vgg16", 32, batch=2),
    Case("vgg16", 224, batch=2),
    Case("resnet50", 32, batch=2),
    Case("resnet50", 224, batch=2),
    Case("resnet50", 64, batch=8, train=True),
    Case("wrn28_10", 32, batch=2),
)
# Small, but with maps of more than one pixel wherever padding could differ.
GOLDEN_CASES = (Case("vgg16", 32), Case("resnet50", 64), Case("wrn28_10", 8))


class Oracle(NamedTuple):
    """What PyTorch's values come from.

    Attributes:
      source: Its name and versions.
      own: Whether it is torch_networks.py, else torchvision.
    """

    source: str
    own: bool


def choose_oracle(network: str) -> Oracle:
    """Chooses torchvision's network if there is one, else that of torch_networks.py."""
    from experiments.parity import torch_networks

    own = network == "wrn28_10" or not torch_networks.has_torchvision()
    packages = ("torch",) if own else ("torchvision", "torch")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return Oracle(", ".join(["torch_networks.py"] * own + versions), own)


def run_flax(case: Case, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Computes a case with cglo_jax; see flax_networks.run."""
    tensors = flax_networks.random_tensors(case.network)
    options = {"train": case.train, "normalize": not case.train}
    return flax_networks.run(case.network, tensors, case.images(dtype), **options)


def run_torch(case: Case, own: bool, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Computes the same in PyTorch; `own` as in torch_networks.create."""
    from experiments.parity import torch_networks

    tensors = flax_networks.random_tensors(case.network)
    options = {"train": case.train, "normalize": not case.train, "own": own}
    outputs, after = torch_networks.run(
        case.network, tensors, case.images(dtype), **options
    )
    if case.train:
        kept = {name: after[name] for name in tensors}
        stats = flax_networks.from_torch(case.network, kept)["batch_stats"]
        outputs |= flax_networks.running_values(stats)
    return outputs


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Returns the largest error divided by the largest magnitude of `theirs`.

    Raises:
      ValueError: The shapes differ.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"shape {ours.shape} is not PyTorch's {theirs.shape}")
    error = np.abs(ours.astype(np.float64) - theirs).max()
    return float(error / np.abs(theirs).max())


def compare_case(case: Case, own: bool) -> list[dict[str, Any]]:
    """Runs both sides in both types; returns a row for all that is compared."""
    flax32, flax64 = (run_flax(case, dtype) for dtype in ("float32", "float64"))
    torch32, torch64 = (run_torch(case, own, d) for d in ("float32", "float64"))
    if flax32.keys() != torch32.keys():
        raise ValueError(f"{sorted(flax32)} are not PyTorch's {sorted(torch32)}")
    return [
        {
            "network": flax_networks.NAMES[case.network],
            "side": case.side,
            "mode": "train" if case.train else "eval",
            "compared": name,
            "shape": list(torch64[name].shape),
            "largest": float(np.abs(torch64[name]).max()),
            "error_float32": relative_error(flax32[name], torch32[name]),
            "error_float64": relative_error(flax64[name], torch64[name]),
            "torch_rounding": relative_error(torch32[name], torch64[name]),
        }
        for name in torch64
    ]


def agrees(row: dict[str, Any]) -> bool:
    """Whether a row of `compare_case` is within the bounds of this file's docstring."""
    rounding = max(TOLERANCE, ROUNDINGS * row["torch_rounding"])
    return row["error_float64"] <= TOLERANCE and row["error_float32"] <= rounding


def golden_positions(size: int) -> np.ndarray:
    """Returns the flat positions of the golden values in an array of `size`."""
    return np.random.RandomState(2).randint(size, size=GOLDEN_VALUES)


def write_golden() -> None:
    """Writes tests/golden/<network>.json from PyTorch's values in float64.

    Raises:
      SystemExit: There is no torchvision.
    """
    GOLDEN.mkdir(exist_ok=True)
    for case in GOLDEN_CASES:
        oracle = choose_oracle(case.network)
        if oracle.own and case.network != "wrn28_10":
            raise SystemExit("--write_golden needs torchvision: install it first")
        golden = {
            name: {
                "shape": list(output.shape),
                "largest": float(f"{np.abs(output).max():.8g}"),
                "values": [
                    float(f"{value:.8g}")
                    for value in output.ravel()[golden_positions(output.size)]
                ],
            }
            for name, output in run_torch(case, oracle.own, "float64").items()
        }
        text = json.dumps({"oracle": oracle.source, "golden": golden})
        path = GOLDEN / f"{case.network}.json"
        path.write_text(text + "\n", encoding="utf-8")


def measure() -> None:
    """Compares all cases, prints the table and writes its rows to RESULTS.

    RESULTS is replaced by a run that compared all, and left alone by one that was cut off.

    Raises:
      SystemExit: Something does not agree; it is written nevertheless.
    """
    date = machine.today()
    used = environment(jax.local_devices()[:1])
    common = {"date": date, "platform": platform.platform(), "environment": used}
    columns = ["network", "px", "mode", "compared", "largest", "float32", "float64"]
    columns += ["PyTorch's rounding", "against"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    failures, records = [], []
    for case in CASES:
        oracle = choose_oracle(case.network)
        for row in compare_case(case, oracle.own):
            texts = [str(row[k]) for k in ("network", "side", "mode", "compared")]
            texts.append(f"{row['largest']:.3g}")
            errors = ("error_float32", "error_float64", "torch_rounding")
            texts += [f"{row[k]:.1e}" for k in errors]
            print("| " + " | ".join([*texts, oracle.source]) + " |", flush=True)
            records.append({**row, "oracle": oracle.source, **common})
            if not agrees(row):
                failures.append(" ".join(texts[:4]))
    lines = [json.dumps(record) + "\n" for record in records]
    storage.write_atomically(RESULTS, "".join(lines))
    if failures:
        raise SystemExit(f"does not agree: {', '.join(failures)}")


def main() -> None:
    """Compares all cases, or writes the golden values."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write_golden", action="store_true")
    arguments = parser.parse_args()
    try:
        importlib.import_module("torch")
    except ModuleNotFoundError:
        raise SystemExit("there is no PyTorch: pip install -e '.[torch]'") from None
    if arguments.write_golden:
        write_golden()
    else:
        measure()


if __name__ == "__main__":
    entry.run(main)
