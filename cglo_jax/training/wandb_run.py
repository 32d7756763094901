"""Weights & Biases: the same scalars and pictures on its pages, if `config.log.wandb` names a project.

A missing package or key is refused before anything is trained. From then on no failure of W&B ends a run:
at the first one this process prints one line and logs to W&B no more; metrics.jsonl has everything. W&B
keeps the first values logged for a step: after a rollback they differ from metrics.jsonl.
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

_UPLOAD_S = 120.0  # after a run; what is not uploaded by then stays in workdir/wandb
_SILENT = {"silent": True, "console": "off"}  # else it wraps standard output and error
_PLACES = (
    "dataset.path",
    "dataset.data_dir",
    "dataset.split_file",
    "reconstruction.weights",
    "latent.init_weights",
    "classify.weights",
    "report.compare",
)
_failed = False  # whether this process logs to W&B no more


class Project(NamedTuple):
    """A project of W&B, "" = none, and the fields of the configuration to show there."""

    name: str = ""
    fields: Mapping[str, Any] = {}

    @classmethod
    def create(cls, config: ConfigDict) -> Self:
        """Returns the project `config.log.wandb` with all fields that name no path of this machine."""
        fields = flatten(config).items()
        return cls(config.log.wandb, {k: v for k, v in fields if k not in _PLACES})


NO_PROJECT = Project()


def check(config: ConfigDict) -> None:
    """Checks that runs can be logged to W&B, before anything is trained; asks nobody for a key.

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
    # It is not installed, a folder has its name, or it is an old version.
    except (ImportError, AttributeError, TypeError):
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
      run: a run of the package wandb.
      image: its class of images.

    Attributes:
      place: the run's address or, if nothing is sent, its folder.
    """

    def __init__(self, run: Any, image: Callable[[np.ndarray], Any]):
        self._run, self._image = run, image
        self.place = pathlib.Path(run.dir).parent if run.offline else run.url

    @classmethod
    def open(
        cls, project: Project, workdir: pathlib.Path, tags: Mapping[str, Any]
    ) -> Self | None:
        """Begins a run with files in `workdir`, or resumes the run of an earlier call there.

        Returns:
          None without a project, or if W&B fails.
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
        """Logs the metrics, one number each, after `step`."""
        self._log(step, values)

    def write_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Logs pictures uint8 [H, W, 3] of the state after `step`."""
        self._log(step, {k: self._image(v) for k, v in pictures.items()})

    def close(self) -> None:
        """Waits until all is uploaded, for some minutes at most."""
        try:
            self._run.finish()
        except Exception as error:  # noqa: BLE001 - see `open`
            _give_up(error)

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        if _failed:
            return
        try:
            if step >= self._run.step:  # else it was logged before
                self._run.log(dict(values), step=step)
        except Exception as error:  # noqa: BLE001 - see `open`
            _give_up(error)


def _give_up(error: Exception) -> None:
    global _failed
    if not _failed:
        text = f"warning: W&B: {storage.explain(error)}; continuing without it"
        print(text, file=sys.stderr, flush=True)
    _failed = True


def _read_id(workdir: pathlib.Path) -> str:
    """Returns the id of this work directory: 12 hexadecimal digits, kept when the directory is moved."""
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
