"""Weights & Biases: the same scalars and pictures on its pages, if `config.log.wandb` names a project.

What can be seen on this machine (the package, a key) is refused before anything is trained. From
then on nothing that W&B does ends a run: the first thing that goes wrong is one line, and this process
tells W&B no more. What it does not hear of is in metrics.jsonl. W&B keeps what it was told first of a
step: of a run that is resumed it is the same, after a rollback it is not.
"""

import hashlib
import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from ml_collections import ConfigDict

from cglo_jax.config.defaults import flatten
from cglo_jax.errors import UserError
from cglo_jax.files import ownership, readback, storage

_UPLOAD_S = 120.0  # after a run; what is not uploaded then stays in workdir/wandb
_SILENT = {"silent": True, "console": "off"}  # it would wrap standard output and error
_PLACES = (
    "dataset.path",
    "dataset.data_dir",
    "dataset.split_file",
    "reconstruction.weights",
    "latent.init_weights",
    "classify.weights",
    "report.compare",
)
_failed = False  # whether this process tells W&B no more


class Project(NamedTuple):
    """Where runs go: a project, none if it is "", and the configuration to show there."""

    name: str = ""
    fields: Mapping[str, Any] = {}

    @classmethod
    def create(cls, config: ConfigDict) -> Self:
        """Takes `config.log.wandb`, and all fields but those that name places of this machine."""
        fields = flatten(config).items()
        return cls(config.log.wandb, {k: v for k, v in fields if k not in _PLACES})


NO_PROJECT = Project()


def check(config: ConfigDict) -> None:
    """Checks that runs can be told to W&B, before anything is trained; asks nobody.

    Raises:
      UserError: a project is named, but W&B is not installed or has no key.
    """
    if not config.log.wandb:
        return
    try:
        import wandb

        settings = wandb.setup(settings=wandb.Settings(**_SILENT)).settings
        sends = settings.mode in ("online", "shared")
        allowed = not sends or wandb.login(prompt=False, verify=False)
    except (ImportError, AttributeError, TypeError):  # none, a folder of that name, old
        raise UserError(
            f"config.log.wandb is {config.log.wandb!r}, but W&B is not installed, or older than "
            "0.31: pip install 'wandb>=0.31'"
        ) from None
    except Exception as error:  # noqa: BLE001 - W&B may raise anything
        raise UserError(f"config.log.wandb: W&B: {storage.explain(error)}") from None
    if not allowed:
        raise UserError(
            "config.log.wandb: W&B has no key: run wandb login, or set WANDB_API_KEY, or "
            "WANDB_MODE=offline to keep everything here"
        )


class WandbRun:
    """One run of a project; `open` one.

    Args:
      run: of the package wandb. image: its class of images.

    Attributes:
      place: where people find it: an address, or a folder where nothing is sent.
    """

    def __init__(self, run: Any, image: Callable[[np.ndarray], Any]):
        self._run, self._image = run, image
        self.place = pathlib.Path(run.dir).parent if run.offline else run.url

    @classmethod
    def open(
        cls, project: Project, workdir: pathlib.Path, tags: Mapping[str, Any]
    ) -> Self | None:
        """Begins a run, or goes on with the one of an earlier call in `workdir`; its files lie there.

        None without a project, or if W&B cannot.
        """
        if not project.name or _failed:
            return None
        name = "-".join(str(value) for value in tags.values())
        try:
            import wandb

            run = wandb.init(
                project=project.name,
                dir=str(workdir),
                id=f"{_read_id(workdir)}-{name}",
                name=f"{workdir.resolve().name} {name}",
                group=workdir.resolve().name,
                job_type=tags["stage"],
                config=dict(project.fields),
                allow_val_change=True,
                resume="allow",
                reinit="create_new",  # leaves another run of this process alone
                settings=wandb.Settings(**_SILENT, finish_timeout=_UPLOAD_S),
            )
            return cls(run, wandb.Image)
        except Exception as error:  # noqa: BLE001 - W&B may raise anything
            _give_up(error)
            return None

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Tells the metrics after `step`."""
        self._tell(step, values)

    def write_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Tells pictures uint8 [H, W, 3] of the state after `step`."""
        self._tell(step, {k: self._image(v) for k, v in pictures.items()})

    def close(self) -> None:
        """Waits until all is uploaded, for some minutes at most."""
        try:
            self._run.finish()
        except Exception as error:  # noqa: BLE001 - see `open`
            _give_up(error)

    def _tell(self, step: int, values: Mapping[str, Any]) -> None:
        if _failed:
            return
        try:
            if step >= self._run.step:  # else it was told before
                self._run.log(dict(values), step=step)
        except Exception as error:  # noqa: BLE001 - see `open`
            _give_up(error)


def _give_up(error: Exception) -> None:
    global _failed
    if not _failed:
        text = f"warning: W&B: {storage.explain(error)}; going on without it"
        print(text, file=sys.stderr, flush=True)
    _failed = True


def _read_id(workdir: pathlib.Path) -> str:
    """Returns what names this work directory wherever it is moved; a fresh one has another."""
    path = workdir / "wandb" / "id"
    try:
        token = readback.read_bytes(path, most=100).decode("ascii", "replace").strip()
    except FileNotFoundError:
        token = hashlib.sha256(os.urandom(32)).hexdigest()[:12]
        ownership.write(workdir, "wandb/id", token + "\n")
    if not re.fullmatch(r"[0-9a-f]{12}", token):
        reason = "it is not the id that a run was given"
        raise readback.Unusable(path, reason, "move it away: the run gets another")
    return token
