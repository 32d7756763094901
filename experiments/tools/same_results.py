"""Are the results of two trees equal to the bit? Runs short trainings in both and compares the files.

    git worktree add ../before COMMIT
    python experiments/tools/same_results.py ../before . --out=/tmp/same

For changes that must change no result: every run is made with both trees, with one seed of every kind
of configuration below. Compared are metrics.jsonl, the samples with their manifest and figures' data,
every result.json and the exported tensors; times, paths and versions are left out. Prints a line per
file and ends with status 1 if any differs. Two cores need some four minutes per tree.
"""

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

_SHORT = (
    "--config=configs/digits.py --config.train.epochs=2 "
    "--config.train.steps_per_epoch=8 --config.train.log_every_steps=3 "
    "--config.train.lr_drop_epochs=1 --config.train.checkpoint_every_epochs=1 "
    "--config.classify.epochs=2 --config.classify.steps_per_epoch=6 "
    "--config.classify.log_every_steps=2 --config.classify.lr_drop_epochs=1 "
    "--config.sample.per_class=2 --config.classify.width=1"
)
_ONE_SEED = f"{_SHORT} --config.seeds=3"
_SEVERAL_SEEDS = f"{_SHORT} --config.seeds=0,1"
CASES = {
    "methods": f"{_SEVERAL_SEEDS} --config.classify.methods=baseline,cglo,pixelmix,cutout,random_erasing,"
    "mixup,cosine,cosine_ce,cglo_cosine,pixelmix_cosine",
    "unlabelled": f"{_ONE_SEED} --config.classify.methods=mixmatch --config.dataset.unlabelled=40 "
    "--config.latent.noise=additive --config.weak_classifier.input=latent",
    "codes": f"{_ONE_SEED} --config.latent.init=hypercube --config.latent.noise=none "
    "--config.weak_classifier.loss=cosine --config.sample.interpolation=lerp "
    "--config.sample.batch_statistics=batch --config.dataset.transductive=True "
    "--config.classify.methods=autoaugment,autoaugment_cglo --config.dataset.size=16 "
    "--config.sample.export=npz",
    "perceptual": f"{_ONE_SEED} --config.reconstruction.loss=perceptual --config.dataset.size=32 "
    "--config.reconstruction.weights=random --config.external_weights=True "
    "--config.latent.init=resnet --config.latent.init_weights=random --config.latent.dim=40 "
    "--config.generator.width=16 --config.classify.methods=cglo "
    "--config.classify.draw_per=batch --config.weak_classifier.loss=double_softmax "
    "--config.classify.augment_synthetic=False",
}
# What a result says of the run, not of what it computed.
_OF_THE_RUN = {"environment", "wall_s", "seconds", "versions", "commit", "git", "time"}


def main() -> None:
    """Runs every case in both trees, compares, and exits with 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trees", nargs=2, type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--cases", default=",".join(CASES))
    arguments = parser.parse_args()
    differing = 0
    for case in arguments.cases.split(","):
        before, after = (
            _digests(tree.resolve(), case, arguments.out.resolve() / str(i))
            for i, tree in enumerate(arguments.trees)
        )
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                differing += 1
                print(f"{case}: {name} differs", flush=True)
        print(f"{case}: {len(before)} files compared", flush=True)
    print("equal" if not differing else f"{differing} files differ")
    sys.exit(bool(differing))


def _digests(tree: pathlib.Path, case: str, out: pathlib.Path) -> dict[str, str]:
    """Returns {file of the work directory: digest of what it says}, running what is not there."""
    workdir = out / case
    if not (workdir / "done").exists():
        for stage in ("all", "export"):
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "cglo_jax.main",
                    *CASES[case].split(),
                    f"--workdir={workdir}",
                    f"--stage={stage}",
                ],
                cwd=tree,
                env=os.environ | {"PYTHONPATH": str(tree)},
                stdout=subprocess.DEVNULL,
                check=True,
            )
        (workdir / "done").touch()
    digests = {}
    for path in sorted(workdir.rglob("*")):
        name = path.relative_to(workdir)
        if path.suffix in (".png", ".npz", ".safetensors") or (
            path.name
            in ("metrics.jsonl", "manifest.jsonl", "nearest.json", "codes.json")
        ):
            digests[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "result.json":
            text = json.dumps(_only_computed(json.loads(path.read_text())))
            digests[str(name)] = hashlib.sha256(text.encode()).hexdigest()
    return digests


def _only_computed(value: Any) -> Any:
    if isinstance(value, dict):
        kept = sorted(value.keys() - _OF_THE_RUN)
        return {name: _only_computed(value[name]) for name in kept}
    if isinstance(value, list):
        return [_only_computed(one) for one in value]
    return value


if __name__ == "__main__":
    main()
