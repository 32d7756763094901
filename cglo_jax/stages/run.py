"""Runs the stages that a command asks for, after everything that can be checked before them."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator

from ml_collections import ConfigDict

from cglo_jax.classifier import methods
from cglo_jax.data import dataset
from cglo_jax.data.dataset import Dataset
from cglo_jax.errors import UserError, printable
from cglo_jax.files import ownership
from cglo_jax.process import interrupts, log_file, platforms
from cglo_jax.stages import classify, train
from cglo_jax.training import parallel, processes, wandb_run
from cglo_jax.workdir import directory

_OFFLINE = ("report", "export")  # read no images
_NO_CGLO = (
    "no method of config.classify.methods uses cGLO: it is trained for the images and figures of "
    "--stage=sample only (--stage=classify leaves it out)"
)
_PER_SEED = (
    "each seed draws its own labelled images (config.dataset.split_per_seed): so many of each class, "
    "the same test images for all"
)


def run_command(
    config: ConfigDict,
    workdir: pathlib.Path,
    stage: str,
    *,
    fresh: bool = False,
    several: bool = False,
) -> None:
    """Runs a stage, or all of them in turn.

    Args:
      config: validated.
      workdir: is made, unless it is there.
      stage: of --stage, but "help".
      fresh: sets a run that is in `workdir` aside.
      several: this process was started as one of several.

    Raises:
      UserError: something that the user can correct; before anything is written, if possible.
    """
    parallel.begin_run()
    check_command(config, workdir, stage, fresh)
    if stage in _OFFLINE:
        if parallel.is_first_process():
            _run_offline_stage(config, workdir, stage)
        return
    check_before_start(config, workdir, stage, fresh)
    images = load_images(config, workdir, stage, fresh)
    if several:
        print(processes.describe(), flush=True)
    check_weights(config, stage)
    interrupts.begin()
    with _begin_run(config, workdir, stage, fresh, images.of(config.seeds[0])[0]):
        processes.check_workdir(workdir)
        _run_stages(config, workdir, stage, images)


def check_command(
    config: ConfigDict, workdir: pathlib.Path, stage: str, fresh: bool
) -> None:
    """Checks what needs neither devices nor images: flags, names of methods, the work directory."""
    processes.check_equal("flags", f"{config.to_json()} {stage} {fresh}")
    methods.check_names(config.classify.methods)
    if parallel.is_first_process():  # before anything is read
        directory.check_place(config, workdir, stage, fresh=fresh)
        if note := platforms.note():
            print(f"note: {note}", file=sys.stderr, flush=True)
    if config.report.compare and stage != "report":
        raise UserError(
            "config.report.compare is for --stage=report only: leave it out"
        )


def check_before_start(
    config: ConfigDict, workdir: pathlib.Path, stage: str, fresh: bool
) -> None:
    """Checks what needs no images: W&B, devices, and what the work directory has."""
    if stage != "sample":
        if parallel.is_first_process():
            wandb_run.check(config)
        parallel.choose_devices(config.devices)
    if not fresh:
        directory.check(config, workdir, stage)


def load_images(
    config: ConfigDict, workdir: pathlib.Path, stage: str, fresh: bool
) -> dataset.Images:
    """Returns the images of every seed, after checks that the stage can use the first seed's."""
    with directory.listing_skipped(workdir, fresh=fresh):
        images = dataset.Images(config.dataset)
        train_set, test_set = images.of(config.seeds[0])
    if stage in ("all", "classify"):
        classify.check_longer(config, workdir)
        _, side, _, channels = train_set.images.shape
        methods.check_images(config.classify, side, channels)
    _take(images, config.seeds[0])
    print(dataset.describe(train_set, test_set), flush=True)
    if config.dataset.split_per_seed:
        print(_PER_SEED, flush=True)
    if stage == "all" and not methods.need_cglo(config.classify.methods):
        print(_NO_CGLO, flush=True)
    return images


def _take(images: dataset.Images, seed: int) -> tuple[Dataset, Dataset]:
    """Returns (training images, test images) of a seed, which all processes take together."""
    train_set, test_set = images.of(seed)
    processes.check_equal("images", f"{train_set.digest} {test_set.digest}")
    return train_set, test_set


def check_weights(config: ConfigDict, stage: str) -> None:
    """Loads the pretrained weights that a stage uses, to fail before anything is written."""
    loaders = {"train": train.load_weights, "classify": classify.load_body}
    for name, load in loaders.items():
        if stage in ("all", name) and (origin := load(config)[1]).external:
            print(f"{name} uses {origin.text}", flush=True)


@contextlib.contextmanager
def _begin_run(
    config: ConfigDict,
    workdir: pathlib.Path,
    stage: str,
    fresh: bool,
    train_set: Dataset,
) -> Iterator[None]:
    """Makes the work directory that of this run and holds it; the first process does."""
    with contextlib.ExitStack() as stack:
        if parallel.is_first_process():
            if fresh and (aside := directory.set_aside(workdir)):
                print(_describe_aside(workdir, *aside), flush=True)
            stack.enter_context(directory.hold(config, workdir, stage))
            stack.enter_context(ownership.Log(workdir, log_file.NAME))
            log_file.keep(workdir)
            ownership.write_lines(workdir, "skipped.txt", train_set.skipped)
        yield


def _describe_aside(workdir: pathlib.Path, old: pathlib.Path, stayed: list[str]) -> str:
    """Returns where --fresh moved a run to, and what it left."""
    text = f"the run that was in {workdir} is in {old} now"
    if not stayed:
        return text
    more = ", ..." if len(stayed) > 3 else ""
    named = ", ".join(map(printable, stayed[:3]))
    return f"{text}; what this program did not write stayed ({named}{more})"


def _run_offline_stage(config: ConfigDict, workdir: pathlib.Path, stage: str) -> None:
    if stage == "export":
        from cglo_jax.stages import export

        if old := classify.find_old(config, workdir):
            print(
                f"note: {', '.join(old)} come from the cGLO before its training was extended; "
                "--stage=classify trains them again",
                file=sys.stderr,
                flush=True,
            )
        print(f"exported: {export.run(config, workdir)}", flush=True)
        return
    from cglo_jax.stages import report

    report.run(config, workdir)


def _run_stages(
    config: ConfigDict,
    workdir: pathlib.Path,
    stage: str,
    images: dataset.Images,
) -> None:
    first = parallel.is_first_process()
    if stage in ("all", "train"):
        _train(config, workdir, stage, images)
    if stage in ("all", "sample") and first:
        from cglo_jax.stages import sample

        seed = config.seeds[0]
        folder = sample.run(config, workdir, images.of(seed), seed)
        print(f"images and figures: {folder}", flush=True)
    parallel.barrier("samples")
    if stage in ("all", "classify"):
        for seed in config.seeds:
            classify.check_cglo(config, workdir, _take(images, seed), seed)
        for seed in config.seeds:
            datasets = _take(images, seed)
            for method in config.classify.methods:
                classify.run(config, workdir, datasets, method, seed)
    if stage == "all" and first:
        from cglo_jax.stages import report

        report.run(config, workdir)


def _train(
    config: ConfigDict,
    workdir: pathlib.Path,
    stage: str,
    images: dataset.Images,
) -> None:
    """Trains the cGLO of every seed, or only codes."""
    for seed in config.seeds:
        datasets = _take(images, seed)
        if config.train.only_codes:
            from cglo_jax.stages import fit_codes

            fit_codes.run(config, workdir, datasets, seed)
        else:
            train.run(config, workdir, datasets[0], seed)
    first = parallel.is_first_process()
    if stage == "train" and first and (old := classify.find_old(config, workdir)):
        print(
            f"the samples and {', '.join(old)} come from the cGLO before its training was extended: "
            "--stage=all makes them again (and --stage=export makes the exports again)",
            flush=True,
        )
