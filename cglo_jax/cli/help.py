"""What --help and --stage=help print."""

import ast
import difflib
import pathlib
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from cglo_jax.config import presets
from cglo_jax.config.fields import FIELDS, ROWS, Field, Section
from cglo_jax.errors import UserError, printable

STAGES = {
    "all": "train, sample, classify and report in turn; nothing is trained twice",
    "train": "cGLO for every seed: a generator, and a code for each training image",
    "sample": "new images of every class, and figures of them",
    "classify": "a classifier for every method and seed, with cGLO's images and without",
    "report": "tables, curves and the verdict whether cGLO helped: report.html, report.md",
    "export": "the trained networks, as files for other programs",
    "help": "every field of the configuration; --stage=help latent: those with latent in their names",
}
FLAGS = {
    "config": "a configuration: a file (.py, or a run's config.json) or one of the names below; not "
    "needed if --workdir holds a run, whose own configuration is then used",
    "workdir": "directory of the run, runs/NAME of the configuration if not given",
    "stage": "what to do, all if not given",
    "fresh": "start over; what is in the work directory is kept beside it, as NAME.old-1",
    "coordinator": "for several processes, such as one per host: where process 0 listens; auto "
    "where Slurm, Open MPI, Kubernetes or a TPU provide it",
    "processes": "how many processes there are",
    "process": "which of them this one is, from 0",
    "version": "print the version",
}
_VALUES = {
    "config": "CONFIG",
    "workdir": "DIR",
    "stage": "STAGE",
    "coordinator": "HOST:PORT",
    "processes": "N",
    "process": "I",
}
# Fields that people change most often.
_OFTEN = (
    "seeds",
    "devices",
    "external_weights",
    "dataset.path",
    "dataset.size",
    "dataset.shots",
    "latent.dim",
    "train.epochs",
    "train.batch_size",
    "sample.per_class",
    "classify.methods",
    "classify.epochs",
)
_EXAMPLES = (
    ("--config=digits", "all stages in minutes, on a CPU"),
    ("--config=folder --config.dataset.path=DIR", "your own images"),
    ("--config=cifar100:10,cpu --stage=train", "10 images per class; training only"),
    (
        "--config=digits --config.seeds=0 --workdir=runs/one",
        "one seed, elsewhere",
    ),
    (
        "--workdir=runs/one --stage=report",
        "report of an existing run; needs no more flags",
    ),
    (
        "--config=digits --stage=help classify",
        "the fields with classify in their names, and their values in digits",
    ),
)


def overview(program: str, width: int) -> str:
    """Returns what --help prints.

    Args:
      program: the command that starts it.
      width: width of a line, in characters.
    """
    flags = {
        f"--{name}" + (f"={_VALUES[name]}" if name in _VALUES else ""): text
        for name, text in FLAGS.items()
    }
    often = {
        f"{name}={format_value(FIELDS[name].default)}": FIELDS[name].meaning
        for name in _OFTEN
    }
    parts = [
        _wrap(
            "cGLO: learns an image classifier from a few labelled images per class with the help "
            "of synthetic images, and reports whether they helped.",
            width,
        ),
        f"    {program} --config=CONFIG [--FLAG=VALUE ...] [--config.FIELD=VALUE ...]",
        _table("Flags", flags, width),
        _table("Stages", STAGES, width),
        _table("Included configurations", _describe_configs(), width),
        _table(
            "Fields that people change most often (--config.seeds=0,1), with their defaults; a "
            "configuration may set other values",
            often,
            width,
        ),
        "Examples\n" + "\n".join(_example(program, *e, width) for e in _EXAMPLES),
    ]
    return "\n\n".join(parts) + "\n"


def describe_fields(words: Sequence[str], values: Mapping[str, Any], width: int) -> str:
    """Returns what --stage=help prints: fields with type, default and meaning, by section.

    Args:
      words: to look for in names, or else in meanings; all fields if there are none.
      values: values of a configuration's fields, by dotted name; may be empty.
      width: width of a line, in characters.

    Raises:
      UserError: a word is in no name and no meaning.
    """
    chosen = {name for word in words for name in _find(word)}
    lines = []
    for row in ROWS:
        if isinstance(row, Section):
            title = f"{row.name}: {row.title}" if row.name else row.title
            heading = ["", _wrap(title, width)]
        elif not words or row.name in chosen:
            lines += [*heading, *_describe(row, values.get(row.name), width)]
            heading = []
    here = ' "here" is the value of this configuration.' if values else ""
    first = (
        "--config.NAME=VALUE changes a field, --config.seeds=0,1 one that is a list. [P 4.3] "
        "is section 4.3 of the paper, [A] its authors' code, [M] a measurement of ours."
    )
    return "\n".join([_wrap(first + here, width), *lines]) + "\n"


def _find(word: str) -> list[str]:
    """Returns the fields that have a word in their names, else those that describe it."""
    part = word.lstrip("-").removeprefix("config.").lower()
    found = [name for name in FIELDS if part in name]
    found = found or [n for n, f in FIELDS.items() if part in f.description.lower()]
    if not part or not found:
        close = difflib.get_close_matches(part, list(FIELDS), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "--stage=help lists all"
        raise UserError(f"no field has {word!r} in its name or its meaning: {hint}")
    return found


def _describe(field: Field, here: Any, width: int) -> list[str]:
    default, kind = format_value(field.default), field.kind.removeprefix("a ")
    differs = here is not None and format_value(here) != default
    changed = f"; here {format_value(here)}" if differs else ""
    head = f"{field.name} = {default}  ({kind}{changed})"
    return [_wrap(head, width, 2, 6), _wrap(field.description, width, 6)]


def _describe_configs() -> dict[str, str]:
    """Returns the first line of each configuration's docstring, by its name."""
    lines = {}
    for name in presets.names():
        tree = ast.parse(pathlib.Path(presets.find(name)).read_text("utf-8"))
        lines[name] = ast.get_docstring(tree).splitlines()[0]
    return lines


def format_value(value: Any) -> str:
    """Returns a value as it is typed; texts without quotes where possible."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "''"
    return printable(value if isinstance(value, str) and value else repr(value))


def _example(program: str, arguments: str, meaning: str, width: int) -> str:
    return f"{_wrap(meaning + ':', width, 2)}\n    {program} {arguments}"


def _table(heading: str, rows: Mapping[str, str], width: int) -> str:
    """Returns two columns below a heading; a long name has its own line."""
    left = min(max(map(len, rows)) + 4, 32, width // 3)
    lines = [_wrap(heading, width)]
    for name, text in rows.items():
        wrapped = _wrap(text, width, left)
        if len(name) + 3 < left:
            lines.append(f"  {name}".ljust(left) + wrapped.lstrip())
        else:
            lines += [f"  {name}", wrapped]
    return "\n".join(lines)


def _wrap(text: str, width: int, indent: int = 0, following: int | None = None) -> str:
    whole = re.sub(r"\[P [^\]]*\]", lambda tag: tag[0].replace(" ", "\xa0"), text)
    wrapped = textwrap.fill(
        whole,
        width,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent if following is None else following),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapped.replace("\xa0", " ")
