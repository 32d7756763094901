"""Tests of cglo_jax/command_line.py, each in a process of its own: flags are global."""

import json
import os
import pathlib
import shlex
import subprocess
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DIGITS = "--config=configs/digits.py"
NAMES = "cifar100, cub, digits, folder"
NO_CONFIG = (
    f"no --config: give a configuration file, or one of {NAMES}; --help tells more"
)
NO_FILE = f"give a file that exists, or one of {NAMES}"
PARSE = """
import json, sys
from cglo_jax import command_line, config
command = command_line.parse(sys.argv)
print(json.dumps({
    "workdir": str(command.workdir),
    "stage": command.stage,
    "launch": command.launch,
    "config": config.flatten(command.config),
    "jax": "jax" in sys.modules,
}))
"""


# Prints the stage of each example that asks for one.
PARSE_ALL = """
import json, os, sys
from cglo_jax import command_line
for example in {examples}:
    if not os.fork():
        sys.argv = ["main.py", *example]
        print(json.dumps(command_line.parse(sys.argv).stage), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def run(*command: str, cwd: pathlib.Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def parse(*arguments: str, cwd: pathlib.Path = ROOT) -> dict[str, Any]:
    """Returns what the arguments mean."""
    done = run("-c", PARSE, *arguments, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def error_of(*arguments: str) -> str:
    """Returns the one line that the program answers, without its 'error: '."""
    done = run("-m", "cglo_jax.main", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def write_config(folder: pathlib.Path, body: str, argument: str = "") -> pathlib.Path:
    """Writes a configuration file whose get_config(`argument`) does `body` to config c."""
    path = folder / "mine.py"
    path.write_text(
        "from cglo_jax import config, errors\n"
        f"def get_config({argument}):\n"
        "    c = config.get_config()\n"
        f"    {body}\n"
        "    return c\n"
    )
    return path


# What it accepts


def test_defaults_of_the_flags():
    command = parse(DIGITS)
    assert (command["workdir"], command["stage"]) == ("runs/digits", "all")
    assert command["config"]["reconstruction.loss"] == "laplacian"
    assert command["jax"] is False  # so that mistakes are told at once


def test_fields_are_changed():
    command = parse(
        "--config",
        "configs/digits.py",
        "--workdir=~/runs/a",
        "--stage=sample",
        "--config.latent.dim=256",
        "--config.train.generator_lr",
        "1e-3",
        "--config.seeds=(3,4)",
        "--config.train.lr_drop_epochs=7",
        "--noconfig.dataset.transductive",
        "--config.classify.flip=true",
        "--config.classify.methods=('cglo',)",
    )
    assert command["workdir"] == os.path.expanduser("~/runs/a")
    assert command["stage"] == "sample"
    wanted = {
        "latent.dim": 256,
        "train.generator_lr": 1e-3,
        "seeds": [3, 4],
        "train.lr_drop_epochs": [7],
        "dataset.transductive": False,
        "classify.flip": True,
        "classify.methods": ["cglo"],
    }
    config = command["config"]
    assert {name: config[name] for name in wanted} == wanted
    unchanged = parse(DIGITS)["config"]
    assert {k: v for k, v in config.items() if k not in wanted} == {
        k: v for k, v in unchanged.items() if k not in wanted
    }


@pytest.mark.parametrize(
    ("argument", "name"), [("", "mine"), (":10", "mine-10"), (":10,b", "mine-10-b")]
)
def test_workdir_is_named_after_the_config(tmp_path, argument, name):
    path = write_config(tmp_path, "c.dataset.shots = len(shots)", "shots='abc'")
    command = parse(f"--config={path}{argument}")
    assert command["workdir"] == f"runs/{name}"
    assert command["config"]["dataset.shots"] == len(argument[1:] or "abc")


def test_a_name_without_a_path_is_a_configuration_that_comes_along(tmp_path):
    command = parse("-config", "cub:10", "--config.latent.dim=8", cwd=tmp_path)
    assert command["workdir"] == "runs/cub-10"
    assert command["config"]["dataset.name"] == "caltech_birds2011"
    assert command["config"]["latent.dim"] == 8


SEVERAL = ["--coordinator=host-0:1234", "--processes=2", "--process=1"]


def test_which_of_several_processes_this_is():
    assert parse(DIGITS)["launch"] is None
    assert parse(DIGITS, *SEVERAL)["launch"] == ["host-0:1234", 2, 1]
    assert parse(DIGITS, "--coordinator=auto")["launch"] == ["auto", None, None]


ALL_OR_NONE = (
    "several processes need all of --coordinator=HOST:PORT --processes=N --process=I, or "
    "--coordinator=auto alone"
)


def say(*arguments: str) -> str:
    """Returns what the program prints that is asked for help."""
    done = run("-m", "cglo_jax.main", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_tells_of_the_flags(flag):
    text = say(flag, "--config=nope")
    for part in ("python -m cglo_jax.main --config=digits", "--workdir=DIR", "Stages"):
        assert part in text


def test_the_examples_of_help_are_understood():
    lines = say("--help").partition("Examples")[2].splitlines()
    examples = [shlex.split(line)[3:] for line in lines if line.startswith("    ")]
    assert len(examples) == 5
    code = PARSE_ALL.format(examples=examples)
    *stages, last = run("-c", code).stdout.split("\n", 4)
    assert stages == ['"all"', '"all"', '"train"', '"all"']
    assert "  classify.depth = 28  (whole number; here 10)\n" in last


def test_the_stage_help_lists_fields_without_a_config():
    text = say("--stage=help")
    assert "  latent.dim = 128  (whole number)\n" in text
    assert "  report.confidence = 0.95  (number)\n" in text


def test_the_stage_help_tells_what_a_config_and_the_command_line_changed():
    text = say(
        "--config=digits", "--config.latent.dim=64", "--stage=help", "dim", "pad"
    )
    assert "  latent.dim = 128  (whole number; here 64)\n" in text
    assert "  classify.pad = 4  (whole number; here 1)\n" in text
    assert "  seeds = " not in text


@pytest.mark.parametrize("arguments", [["--help"], ["--stage=help"]])
def test_help_may_be_cut_off(arguments):
    reader, writer = os.pipe()
    os.close(reader)  # as `head` does when it has seen enough
    program = [sys.executable, "-m", "cglo_jax.main", *arguments]
    try:
        done = subprocess.run(
            program, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


# What it refuses


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # fields
        (
            [DIGITS, "--config.latent.dmi=256"],
            "config has no field 'latent.dmi': did you mean 'latent.dim'?",
        ),
        (
            ["-config=configs/digits.py", "-config.latent.dmi", "256"],
            "config has no field 'latent.dmi': did you mean 'latent.dim'?",
        ),
        (
            [DIGITS, "--noconfig.classify.flop"],
            "config has no field 'classify.flop': did you mean 'classify.flip'?",
        ),
        (
            [DIGITS, "--config.train.noise_std=1"],
            "config has no field 'train.noise_std': did you mean 'latent.noise_std'?",
        ),
        (
            [DIGITS, "--config.train.lr=1"],
            "config has no field 'train.lr': did you mean 'classify.lr' or 'train.weak_lr'?",
        ),
        (
            [DIGITS, "--config.dropout=1"],
            "config has no field 'dropout': did you mean 'classify.dropout'?",
        ),
        (
            [DIGITS, "--config.zzz=1"],
            "config has no field 'zzz': --stage=help lists all",
        ),
        # values
        (
            [DIGITS, "--config.latent.dim=1.5"],
            "config.latent.dim is '1.5': it must be a whole number",
        ),
        (
            [DIGITS, "--config.latent.noise_std=low"],
            "config.latent.noise_std is 'low': it must be a number",
        ),
        (
            [DIGITS, "--config.classify.flip=maybe"],
            "config.classify.flip is 'maybe': it must be true or false",
        ),
        (
            [DIGITS, "--config.train.epochs=0"],
            "config.train.epochs is 0: it must be greater than 0",
        ),
        (
            [DIGITS, "--config.train.code_lr=nan"],
            "config.train.code_lr is nan: it must be finite",
        ),
        (
            [DIGITS, "--config.classify.methods=('cglo','cglo')"],
            "config.classify.methods is ['cglo', 'cglo']: it must be a list of different "
            + "names, written \"('baseline','cglo')\"",
        ),
        ([DIGITS, "--config.latent.dim"], "Missing value for flag --config.latent.dim"),
        (
            [DIGITS, "--config.seeds=(0,)", "--config.seeds=(1,)"],
            "config.seeds is given twice: give it once, with all its values",
        ),
        (
            ["--flagfile=/missing", DIGITS],
            "--flagfile is not read: write a configuration file, such as those in configs/",
        ),
        # starting over
        *(
            (
                [DIGITS, "--fresh", f"--{needs}"],
                f"--fresh sets the whole run aside, and --{needs} needs it: leave one of them out",
            )
            for needs in ("stage=sample", "stage=classify", "stage=report")
        ),
        (
            [DIGITS, "--fresh", "--stage=train", "--config.train.only_codes"],
            "--fresh sets the whole run aside, and --config.train.only_codes needs it: leave "
            + "one of them out",
        ),
        # the config
        ([], NO_CONFIG),
        (["--config="], NO_CONFIG),
        (["configs/digits.py"], NO_CONFIG),
        (["--stage=report", "--workdir=runs/a"], NO_CONFIG),
        (["--config"], "Missing value for flag --config"),
        (
            ["--config=configs/nope.py:10"],
            "there is no configuration file 'configs/nope.py': " + NO_FILE,
        ),
        (["--config", "nope"], f"there is no configuration file 'nope': {NO_FILE}"),
        (["--config=configs"], f"there is no configuration file 'configs': {NO_FILE}"),
        (["--config=digits:10"], "digits takes no argument: leave out ':10'"),
        (
            ["--config=configs/nope.py", "--config.latent.dim=3"],
            "there is no configuration file 'configs/nope.py': " + NO_FILE,
        ),
        (
            ["--config=configs/digits.py:10"],
            "configs/digits.py takes no argument: leave out ':10'",
        ),
        (
            ["--config=cglo_jax/errors.py"],
            "cglo_jax/errors.py has no function get_config",
        ),
        (["--config.latent.dim=3"], "fields can only be changed after --config=FILE"),
        (
            ["--config.latent.dim=3", DIGITS],
            "fields can only be changed after --config=FILE",
        ),
        # several processes
        ([DIGITS, *SEVERAL[:2]], ALL_OR_NONE),
        ([DIGITS, *SEVERAL[1:]], ALL_OR_NONE),
        ([DIGITS, SEVERAL[2]], ALL_OR_NONE),
        (
            [DIGITS, "--coordinator=auto", "--processes=2"],
            "--coordinator=auto takes no --processes and no --process",
        ),
        (
            [DIGITS, "--coordinator=host-0", *SEVERAL[1:]],
            "--coordinator=host-0: it must be HOST:PORT, or auto",
        ),
        (
            [DIGITS, *SEVERAL[:2], "--process=2"],
            "--process=2: it must be from 0 to --processes=2 minus 1",
        ),
        (
            [DIGITS, SEVERAL[0], "--processes=0", "--process=0"],
            "--process=0: it must be from 0 to --processes=0 minus 1",
        ),
        # other flags
        (
            [DIGITS, "--stage=tain"],
            "flag --stage=tain: value should be one of <all|train|sample|classify|report|export|help>",
        ),
        (
            [DIGITS, "--workdr=a"],
            "Unknown command line flag 'workdr'. Did you mean: workdir ?",
        ),
        ([DIGITS, "--verbose_please"], "Unknown command line flag 'verbose_please'"),
        ([DIGITS, "train"], "cannot use 'train': options begin with --, see --help"),
        (
            [DIGITS, "--", "--stage=all"],
            "cannot use '--stage=all': options begin with --, see --help",
        ),
    ],
)
def test_mistakes(arguments, message):
    assert error_of(*arguments) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("c.latent.dim = 0", "config.latent.dim is 0: it must be greater than 0"),
        ("raise errors.UserError('no')", "--config=FILE: no"),
        ("errors.UserError(int('x'))", "FILE, line 4: ValueError: invalid literal"),
        (
            "c.latent.dmi = 3",
            'FILE, line 4: AttributeError: \'Key "dmi" does not exist',
        ),
        (
            "c.latent.dim = 2.5",
            "FILE, line 4: TypeError: Could not override field 'dim'",
        ),
        ("open('nope.txt')", "FILE, line 4: FileNotFoundError: [Errno 2] No such file"),
        ("assert False, 'a\\n  b'", "FILE, line 4: AssertionError: a b"),
        ("raise SystemExit(0)", "FILE, line 4: SystemExit: 0"),
        ("c = 5", "FILE: get_config() must return"),
        ("c = None", "FILE: get_config() must return"),
        ("c = c.latent", "FILE: get_config() must return cglo_jax.config.get_config()"),
        ("c.unlock().new = 1", "FILE: get_config() must return"),
        ("c = (", "FILE, line 4: SyntaxError: '(' was never closed"),
        ("import nope", "FILE, line 4: ModuleNotFoundError: No module named 'nope'"),
    ],
)
def test_mistakes_in_a_config_file(tmp_path, body, message):
    path = write_config(tmp_path, body)
    assert error_of(f"--config={path}").startswith(message.replace("FILE", str(path)))


def test_mistakes_in_an_argument_of_a_config(tmp_path):
    body = """try:
        c.dataset.shots = int(shots)
    except ValueError:
        raise errors.UserError(f"shots are a number, not {shots!r}") from None"""
    path = write_config(tmp_path, body, "shots")
    message = f"--config={path}:ten: shots are a number, not 'ten'"
    assert error_of(f"--config={path}:ten") == message
    assert error_of(f"--config={path}:-1").startswith("config.dataset.shots is -1: ")
