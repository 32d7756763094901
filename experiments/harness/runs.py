"""The runs of a table: rows x columns x seeds -> configurations, told apart by what they read."""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cglo_jax.classifier.methods import METHODS
from cglo_jax.config.defaults import flatten, get_config
from cglo_jax.config.fingerprint import classify_fingerprint, train_fingerprint
from cglo_jax.config.profiles import apply_profile
from cglo_jax.config.validation import validate
from cglo_jax.files import storage
from experiments.harness import paths
from experiments.harness.scales import SETTINGS
from experiments.harness.table import Column, Row, Table

RESULTS = paths.RESULTS / "paper.jsonl"
TUNED = paths.RESULTS / "tuned.jsonl"
TUNED_FIELDS = ("lr", "weight_decay", "batch_size")  # of `config.classify`

# Written into every line of RESULTS; lines with another one do not count, and a work directory has
# a part for each. Raise it when code changes numbers, which no field of a configuration tells.
RESULTS_VERSION = 1

# Rows and columns say which images are reconstructed without a label, not the profile.
_ALL_LABELLED = {"dataset.transductive": False, "dataset.unlabelled": 0}

# Content counts in a work directory, not where it lies; here it is what tells runs apart.
_WEIGHTS = ("reconstruction.weights", "classify.weights", "latent.init_weights")


class Choice(NamedTuple):
    """What a call asks for.

    Attributes:
      seeds: empty = those of the table or the setting.
      data_dir: see `config.dataset.data_dir`.
    """

    scale: str
    data: str
    profile: str = "paper"
    seeds: tuple[int, ...] = ()
    data_dir: str = ""


class Run(NamedTuple):
    """A classifier to train and test.

    Attributes:
      table: the name of the table that asks for it.
      config: with the defaults in all fields that the method does not read.
      digest: of all that determines it; equal runs of other rows or tables have the same.
      cglo: the digest of its cGLO, "" if it needs none.
    """

    table: str
    choice: Choice
    row: str
    column: str
    method: str
    seed: int
    config: ConfigDict
    digest: str
    cglo: str

    def __str__(self) -> str:
        return f"{self.row} {self.column} seed {self.seed}"


def reads(method: str, field: str) -> bool:
    """Returns whether a classifier trained with `method` can depend on a dotted field.

    What some method declares to read is read by those that do; of all other fields, those of
    images and classifier are read by all, the rest by those that need a cGLO. A method that
    declares nothing may read anything: see `cglo_jax.classifier.methods.Method.reads`.
    """
    own = METHODS[method].reads
    if own is None:
        return True
    declared = [m.reads for m in METHODS.values() if m.reads is not None]
    if any(_names(fields, field) for fields in declared):
        return _names(own, field)
    section = field.partition(".")[0]
    return section in ("dtype", "dataset", "classify") or METHODS[method].from_cglo


def _names(fields: Sequence[str], field: str) -> bool:
    """Returns whether `field` is one of `fields` or in a section "a." of them."""
    return any(
        field.startswith(name) if name.endswith(".") else field == name
        for name in fields
    )


def _determining(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields that determine a classifier, by dotted name."""
    flat = flatten(config)
    return {**classify_fingerprint(config), **{name: flat[name] for name in _WEIGHTS}}


def reset_unread(config: ConfigDict, method: str) -> ConfigDict:
    """Sets all fields to their defaults that `method` does not read, so that equal runs look equal."""
    defaults = get_config()
    for name in _determining(config):
        if not reads(method, name):
            section, _, leaf = name.rpartition(".")
            (config[section] if section else config)[leaf] = (
                defaults[section] if section else defaults
            )[leaf]
    return config


def _hash(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest(config: ConfigDict, method: str, seed: int) -> str:
    """Returns a hash of all that determines a run, see `reset_unread`.

    Only fields that differ from their defaults are hashed, so that a field that is added later leaves
    the digests of finished runs as they are. When a default changes, the finished runs' lines get
    the old value among their `changes`, and digests of that.
    """
    return _hash({"method": method, "seed": seed, **changes(config)})


def cglo_digest(config: ConfigDict, seed: int) -> str:
    """Returns a hash of all that determines a cGLO, see `digest`."""
    names = {*train_fingerprint(config), *_WEIGHTS} - {"classify.weights"}
    fields = {name: v for name, v in changes(config).items() if name in names}
    return _hash({"seed": seed, **fields})


def changes(config: ConfigDict) -> dict[str, Any]:
    """Returns the determining fields that differ from the defaults, by dotted name."""
    defaults = _determining(get_config())
    fields = _determining(config)
    return {name: v for name, v in fields.items() if v != defaults[name]}


def setting_digest(scale: str, data: str, shots: int) -> str:
    """Returns a hash of the untuned baseline that is tuned: what is tuned of another is stale."""
    config = SETTINGS[scale, data].config()
    config.dataset.shots = shots
    config.dataset.split_seed = 0
    return digest(reset_unread(config, "baseline"), "baseline", 0)


def tuned_line(choice: Choice, shots: int) -> dict[str, Any] | None:
    """Returns what `experiments.tune` wrote last for so many images per class, None if nothing."""
    setting = setting_digest(choice.scale, choice.data, shots)
    found = [line for line in _of_version(TUNED) if line.get("setting") == setting]
    return found[-1] if found else None


def tuned_fields(choice: Choice, shots: int) -> dict[str, Any] | None:
    """Returns the tuned fields for so many images per class; None if nothing is tuned yet."""
    line = tuned_line(choice, shots)
    return line and {f"classify.{name}": line[name] for name in TUNED_FIELDS}


def tuned_sentence(choice: Choice, shots: int) -> str:
    """Returns the tuned values and how they were found, for people; "" if nothing is tuned yet."""
    line = tuned_line(choice, shots)
    if line is None:
        return ""
    draws = len(line["draws"])
    return (
        f"Tuned: rate {line['lr']:g}, weight decay {line['weight_decay']:g}, batch "
        f"{line['batch_size']}; best of {line['trials']} settings by {line['folds']} folds of "
        f"{draws} draw{'s' * (draws > 1)} of labelled images."
    )


def own_images(choice: Choice) -> bool:
    """Returns whether seed s has its own labelled images: by the setting, or as the profile has it."""
    setting = SETTINGS[choice.scale, choice.data]
    config = apply_profile(setting.config(), choice.profile)
    return setting.own_images or config.dataset.split_per_seed


def create_config(
    choice: Choice, row: Row, column: Column, seed: int
) -> ConfigDict | None:
    """Returns the configuration of a run; None if it is a tuned one and nothing is tuned yet.

    Raises:
      UserError: a field has a value that it cannot have.
    """
    setting = SETTINGS[choice.scale, choice.data]
    config = apply_profile(setting.config(), choice.profile)
    overrides = {**_ALL_LABELLED, **column.overrides, **row.overrides}
    config.update_from_flattened_dict(overrides)
    if row.tuned:
        tuned = tuned_fields(choice, config.dataset.shots)
        if tuned is None:
            return None
        config.update_from_flattened_dict(tuned)
    config.dataset.data_dir = choice.data_dir
    if setting.own_images or config.dataset.split_per_seed:
        config.dataset.split_seed = seed
        config.dataset.split_per_seed = False  # a run here has one seed
    config.seeds = (seed,)
    config.devices = (
        1  # runs are spread over devices; no result depends on their number
    )
    config.classify.methods = (row.method,)
    validate(config)
    return reset_unread(config, row.method)


def expand(table: Table, choice: Choice) -> tuple[list[Run], list[str]]:
    """Returns all runs of a table, seed by seed, and a sentence for each row that is not tuned yet."""
    runs, untuned = [], {}
    usual = table.seeds or SETTINGS[choice.scale, choice.data].seeds
    seeds = choice.seeds or usual
    for seed in seeds:
        for name, column in table.columns[choice.scale, choice.data].items():
            for row in table.rows:
                config = create_config(choice, row, column, seed)
                if config is None:
                    shots = str(column.overrides["dataset.shots"])
                    untuned.setdefault(row.name, {})[name] = shots
                    continue
                needs_cglo = METHODS[row.method].from_cglo
                runs.append(
                    Run(
                        table=table.name,
                        choice=choice,
                        row=row.name,
                        column=name,
                        method=row.method,
                        seed=seed,
                        config=config,
                        digest=digest(config, row.method, seed),
                        cglo=cglo_digest(config, seed) if needs_cglo else "",
                    )
                )
    command = f"python -m experiments.tune --scale={choice.scale} --data={choice.data}"
    notes = [
        f"{row} ({', '.join(shots)}) is not tuned yet: run "
        f"`{command} --shots={','.join(dict.fromkeys(shots.values()))}`."
        for row, shots in untuned.items()
    ]
    return runs, notes


def finished() -> dict[str, dict[str, Any]]:
    """Returns {digest: its newest line of RESULTS}, of lines of RESULTS_VERSION."""
    return {line["digest"]: line for line in _of_version(RESULTS)}


def _of_version(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of RESULTS_VERSION; the first ones have no version."""
    lines = storage.read_records(path)
    return [line for line in lines if line.get("version", 1) == RESULTS_VERSION]


def missing(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs that have no result yet, equal ones once."""
    done, first = finished(), {}
    for run in runs:
        if run.digest not in done:
            first.setdefault(run.digest, run)
    return list(first.values())


def results_of(runs: Sequence[Run]) -> dict[tuple[str, str], dict[int, dict[str, Any]]]:
    """Returns {(row, column): {seed: line of RESULTS}} of the runs that have one."""
    done, results = finished(), {}
    for run in runs:
        if run.digest in done:
            results.setdefault((run.row, run.column), {})[run.seed] = done[run.digest]
    return results
