"""Tests of cglo_jax/cli/flags.py: what a command line means, and what a wrong one is answered."""

import json
import os
import pathlib
import runpy
import shlex
import subprocess
import sys
from typing import Any

import pytest

import cglo_jax
from cglo_jax.cli import flags
from cglo_jax.cli.flags import describe_config_error
from cglo_jax.config.defaults import flatten, get_config
from cglo_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
DIGITS = "--config=configs/digits.py"
NAMES = "cifar10, cifar100, cub, digits, folder"
GIVE = (
    f"give a configuration file, or one of {NAMES}, or the --workdir of a run, which has its own; "
    "see --help"
)
NO_CONFIG = f"no --config: {GIVE}"
NO_FILE = f"give a file that exists, or one of {NAMES}"


def run(*command: str, cwd: pathlib.Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    """Commands are typed in the root of the repository."""
    monkeypatch.chdir(ROOT)


def parse(*arguments: str) -> dict[str, Any]:
    """Returns what the arguments mean, given in this process."""
    command = flags.parse(["main.py", *arguments])
    return {
        "workdir": str(command.workdir),
        "stage": command.stage,
        "launch": command.launch,
        "config": flatten(command.config),
    }


def error_of(*arguments: str) -> str:
    """Returns the one line that the arguments are refused with."""
    with pytest.raises(UserError) as error:
        parse(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def notes(capsys) -> list[str]:
    """Returns the notes that were printed since the last look."""
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("note: ") for line in lines)
    return [line.removeprefix("note: ") for line in lines]


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


def test_a_mistake_is_one_line_and_status_2_before_jax_is_imported():
    code = "import sys; from cglo_jax.cli import flags; flags.parse(sys.argv)"
    done = run("-c", f"{code}; print('jax' in sys.modules)", DIGITS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")
    done = run("-m", "cglo_jax.main", DIGITS, "--config.latent.dim=x")
    message = "error: config.latent.dim is 'x': it must be a whole number\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


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


def test_a_name_without_a_path_is_a_configuration_that_comes_along(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    command = parse("-config", "cub:10", "--config.latent.dim=8")
    assert command["workdir"] == "runs/cub-10"
    assert command["config"]["dataset.name"] == "caltech_birds2011"
    assert command["config"]["latent.dim"] == 8


SEVERAL = ["--coordinator=host-0:1234", "--processes=2", "--process=1"]


def test_which_of_several_processes_this_is():
    assert parse(DIGITS)["launch"] is None
    assert parse(DIGITS, *SEVERAL)["launch"] == ("host-0:1234", 2, 1)
    assert parse(DIGITS, "--coordinator=auto")["launch"] == ("auto", None, None)


ALL_OR_NONE = (
    "several processes need all of --coordinator=HOST:PORT --processes=N --process=I, or "
    "--coordinator=auto alone"
)


def say(*arguments: str) -> str:
    """Returns what the program prints that is asked for help."""
    done = run("-m", "cglo_jax.main", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("arguments", [["--version"], ["--stage=train", "-version"]])
def test_version_is_printed(arguments):
    assert say(*arguments) == f"cglo-jax {cglo_jax.__version__}\n"


def test_version_does_not_import_jax():
    code = (
        "import sys; sys.argv[1:] = ['--version']\n"
        "from cglo_jax import main\n"
        "try: main.run()\n"
        "finally: print('jax' in sys.modules)"
    )
    done = run("-c", code)
    printed = f"cglo-jax {cglo_jax.__version__}\nFalse\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_tells_of_the_flags(flag):
    text = say(flag, "--config=nope")
    for part in ("python -m cglo_jax.main --config=digits", "--workdir=DIR", "Stages"):
        assert part in text


def test_the_examples_of_help_are_understood(tmp_path, monkeypatch, capsys):
    lines = say("--help").partition("Examples")[2].splitlines()
    examples = [shlex.split(line)[3:] for line in lines if line.startswith("    ")]
    assert len(examples) == 6
    monkeypatch.chdir(tmp_path)
    pathlib.Path("runs/one").mkdir(parents=True)
    pathlib.Path("runs/one/config.json").write_text("{}")
    stages = [parse(*example)["stage"] for example in examples[:-1]]
    assert stages == ["all", "all", "train", "all", "report"]
    with pytest.raises(SystemExit):
        parse(*examples[-1])
    assert "  classify.depth = 28  (whole number; here 10)\n" in capsys.readouterr().out


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
            (
                "config has no field 'dropout': did you mean 'classify.dropout' or "
                "'weak_classifier.dropout'?"
            ),
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
            + "names, such as baseline,cglo",
        ),
        (
            [DIGITS, "--config.latent.dim"],
            "--config.latent.dim has no value: write --config.latent.dim=VALUE",
        ),
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
        (
            ["configs/digits.py"],
            "cannot use 'configs/digits.py': options begin with --, see --help",
        ),
        (
            ["--stage=report", "--workdir=runs/nope"],
            f"no --config, and there is no runs/nope/config.json: {GIVE}",
        ),
        (["--config"], "Missing value for flag --config"),
        (["--config", "--workdir=a"], "--config has no value: --workdir=a follows it"),
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
            ["--config=configs/digits"],
            "there is no configuration file 'configs/digits': did you mean configs/digits.py?",
        ),
        (
            ["--config=digit"],
            f"there is no configuration file 'digit': did you mean 'digits'? Or {NO_FILE}",
        ),
        *(
            (
                [f"--config={path}"],
                f"--config={path} is not a configuration: a Python file (.py) with a function "
                + "get_config is one, and the config.json of a work directory",
            )
            for path in (
                "README.md",
                "setup.cfg",
                "experiments/figures/readme_results.png",
            )
        ),
        (
            ["--config=cglo_jax/errors.py"],
            "cglo_jax/errors.py has no function get_config",
        ),
        (["--config.latent.dim=3"], NO_CONFIG),
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
        ("c.latent.dim = 0", "config.latent.dim is 0: it must be at least 2"),
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


# What people type


LISTS = [
    (
        "seeds",
        ["3,4", "(3,4)", "[3, 4]", '"3, 4"', "'[3,4]'", "3 4", " 3 , 4, ", "1e0 3"],
        None,
    ),
    ("classify.methods", ["baseline,cglo", "baseline, cglo", "[baseline cglo]"], None),
    (
        "classify.methods",
        ["cglo", "('cglo')", "('cglo',)", "[cglo]", '"cglo",'],
        ["cglo"],
    ),
    ("classify.methods", ["(\u2018cglo\u2019,)", "\u201ccglo\u201d"], ["cglo"]),
    ("sample.t_values", [".1,0.2", "(.1,.2,)", "[1e-1 .2]"], [0.1, 0.2]),
    ("classify.erasing_fill", ["-.1,0,1", "(-.1, 0, 1)"], [-0.1, 0, 1]),
    ("classify.erasing_fill", [".5", "(.5,)"], [0.5]),
    ("sample.export", ["npz", "('npz',)", "npz,"], ["npz"]),
    ("sample.export", ["", "()", "[]", " "], []),
    ("train.lr_drop_epochs", ["()", ""], []),
    ("train.lr_drop_epochs", ["7", "(7)", "7,"], [7]),
    (
        "reconstruction.layers",
        [
            "pool1 pool2 pool3 pool4 conv5_3_pre",
            "(pool1,pool2,pool3,pool4,conv5_3_pre)",
        ],
        ["pool1", "pool2", "pool3", "pool4", "conv5_3_pre"],
    ),
    ("reconstruction.layer_weights", ["1,1,.5,0,1e-1"], [1, 1, 0.5, 0, 0.1]),
]


@pytest.mark.parametrize(("name", "texts", "value"), LISTS)
def test_lists_need_no_brackets_and_no_quotes(name, texts, value):
    wanted = value
    for text in texts:
        if value is None:
            wanted = [1, 3] if "e" in text and name == "seeds" else [3, 4]
            wanted = ["baseline", "cglo"] if name == "classify.methods" else wanted
        assert parse(DIGITS, f"--config.{name}={text}")["config"][name] == wanted, text


def test_every_list_is_written_so():
    lists = {n: v for n, v in flatten(get_config()).items() if isinstance(v, list)}
    assert lists.keys() == {name for name, *_ in LISTS} | {"classify.lr_drop_epochs"}
    for name, value in lists.items():
        text = ",".join(map(str, value)) or "npz"
        read = parse(DIGITS, f"--config.{name}", text)["config"][name]
        assert read == (value or ["npz"])


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("train.epochs", "1e3", 1000),
        ("train.epochs", "1_000", 1000),
        ("train.epochs", " 12 ", 12),
        ("train.epochs", "2.5e1", 25),
        ("train.epochs", "\u0661\u0662", 12),  # 12 in Arabic
        ("latent.noise_std", "5e-2", 0.05),
        ("latent.noise_std", "1", 1.0),
        *(("classify.flip", word, True) for word in ("yes", "on", "1", "True", "Y")),
        *(("classify.flip", word, False) for word in ("no", "off", "0", "FALSE", "f")),
        ("dataset.path", " a b", " a b"),
        ("dataset.path", "a=b", "a=b"),
    ],
)
def test_values_as_people_write_them(field, text, value):
    for arguments in ([f"--config.{field}={text}"], [f"-config.{field}", text]):
        found = parse(*arguments, DIGITS)["config"][field]
        assert (found, type(found)) == (value, type(value))


def test_a_bare_number_of_seeds_is_a_seed_and_said_to_be(capsys):
    for text in ("0", "(3,)", "[3]", "3,", "0,1"):
        parse(DIGITS, f"--config.seeds={text}")
        assert notes(capsys) == []
    assert parse(DIGITS, "--config.seeds=3")["config"]["seeds"] == [3]
    assert notes(capsys) == [
        "--config.seeds=3 is one run, with the seed 3; 3 runs are --config.seeds=0,1,2"
    ]
    parse(DIGITS, "--config.seeds", "10")
    assert notes(capsys)[0].endswith("10 runs are --config.seeds=0,1,2,...")


def test_of_what_is_given_twice_the_last_counts_and_is_said_to(capsys):
    twice = ["--config.train.epochs=3", "--workdir=b", "--config.train.epochs", "4"]
    command = parse("--config=cub", "--workdir=a", DIGITS, *twice)
    assert (command["workdir"], command["config"]["train.epochs"]) == ("b", 4)
    assert command["config"]["dataset.name"] == "digits"
    assert notes(capsys) == [
        "--config.train.epochs is given twice, as 3 and 4: the last value is used",
        "--config is given 2 times: the last value is used",
        "--workdir is given 2 times: the last value is used",
    ]
    parse(DIGITS, "--config.train.epochs=4", "--config.train.epochs=4")
    assert notes(capsys) == []


def test_several_command_lines_in_one_process_know_nothing_of_each_other():
    first = parse(DIGITS, "--config.latent.dim=8", "--stage=train", "--workdir=a")
    second = parse("--config=folder")
    assert (first["config"]["latent.dim"], second["config"]["latent.dim"]) == (8, 128)
    assert (second["stage"], second["workdir"]) == ("all", "runs/folder")


HOW = "write it as --config.seeds=0,1,2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.seeds=(0,1"],
            f"config.seeds is '(0,1': its ( is never closed: {HOW}",
        ),
        (
            ["--config.seeds=0,1)"],
            f"config.seeds is '0,1)': there is a ) too many: {HOW}",
        ),
        (
            ["--config.seeds=0,,1"],
            f"config.seeds is '0,,1': one of its values is empty: {HOW}",
        ),
        (
            ["--config.seeds=range(3)"],
            f"config.seeds is 'range(3)': there is a ( too many: {HOW}",
        ),
        (
            ["--config.seeds=0-2"],
            f"config.seeds is '0-2': each of its values must be a whole number: {HOW}",
        ),
        (
            ["--config.seeds="],
            "config.seeds is []: it must be a list of different whole numbers from 0 to 2**32 "
            + "- 1, such as 0,1,2",
        ),
        (
            ["--config.seeds", "0", "1", "2"],
            "--config.seeds: '1' stands apart: write a list without spaces, such as "
            + "--config.seeds=0,1, or in quotes",
        ),
        (
            ["--config.classify.methods=baseline,", "cglo"],
            "--config.classify.methods: 'cglo' stands apart: write a list without spaces, such "
            + "as --config.classify.methods=baseline,cglo, or in quotes",
        ),
        (
            ["--config.classify.methods=('cglo"],
            'config.classify.methods is "(\'cglo": its ( is never closed: write it as '
            + "--config.classify.methods=baseline,cglo",
        ),
        (
            ["--config.sample.export='npz"],
            "config.sample.export is \"'npz\": its ' is never closed: write it as "
            + "--config.sample.export=npz,tfds",
        ),
        (
            ["--config.latent.noise_std=0,5"],
            "config.latent.noise_std is '0,5': it must be a number, with a point",
        ),
        (
            ["--config.train.epochs=\u00b2"],
            "config.train.epochs is '\u00b2': it must be a whole number",
        ),
        (
            ["--config.train.epochs", "=", "3"],
            "--config.train.epochs =: leave out the spaces around =",
        ),
        (
            ["--config.dataset.path=", "DIR"],
            "--config.dataset.path= DIR: leave out the space after =",
        ),
        (
            ["--noconfig.classify.flip=1"],
            "--noconfig.classify.flip takes no value: leave out '=1'",
        ),
        (
            ["--noconfig.train.epochs"],
            "--noconfig.train.epochs: only a field that is true or false takes no",
        ),
        (
            ["\u2014workdir=a"],
            "cannot use '\u2014workdir=a': its dash is one of a text program: type --workdir=a",
        ),
        (
            ["\u2013-config.seeds=0"],
            "cannot use '\u2013-config.seeds=0': its dash is one of a text program: type "
            + "--config.seeds=0",
        ),
        (
            ["--seed=3"],
            "there is no flag --seed: fields are written --config.sample.seed or --config.seeds",
        ),
        (["--fresh=maybe"], "flag --fresh=maybe: it must be true or false"),
        (["--processes=x"], "flag --processes=x: it must be a whole number"),
        (["--workdir="], "--workdir is empty: name a directory, or leave it out"),
        (
            ["--train.epochs=3"],
            "there is no flag --train.epochs: fields are written --config.train.epochs",
        ),
        (
            ["--epochs", "3"],
            "there is no flag --epochs: fields are written --config.classify.epochs or "
            + "--config.train.epochs",
        ),
    ],
)
def test_mistakes_are_blamed_on_what_was_typed(arguments, message):
    assert error_of(DIGITS, *arguments) == message


# The configuration of a run


@pytest.fixture
def made(tmp_path):
    """The work directory of a run of digits that had flags of its own."""
    config = parse(DIGITS, "--config.train.epochs=7", "--config.seeds=4,2")["config"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    return tmp_path / "run", config


def test_a_run_goes_on_with_its_own_configuration(made, capsys):
    workdir, config = made
    for stage in ("all", "train", "sample", "classify", "report", "export"):
        command = parse(f"--workdir={workdir}", f"--stage={stage}")
        assert (command["config"], command["stage"]) == (config, stage)
        assert notes(capsys) == [f"the configuration is that of {workdir}/config.json"]


def test_fields_that_are_given_count_beside_those_of_a_run(made):
    workdir, config = made
    given = ["--config.report.confidence=.9", "--config.latent.dim=8"]
    changed = {"report.confidence": 0.9, "latent.dim": 8}
    for more in ([], [DIGITS]):
        command = parse(*given, f"--workdir={workdir}", "--stage=report", *more)
        assert command["config"] == config | changed


def test_what_was_trained_counts_more_than_a_file_for_stages_that_use_it(made, capsys):
    workdir, config = made
    for stage in ("sample", "report", "export"):
        command = parse(DIGITS, f"--workdir={workdir}", f"--stage={stage}")
        assert command["config"] == config
        assert notes(capsys) == [
            f"{DIGITS} differs from {workdir}/config.json (seeds=[4, 2], train.epochs=7): "
            + f"the values in {workdir}/config.json are used, except for fields that this call "
            + "gives by --config.FIELD"
        ]
    for stage in ("all", "train", "classify"):
        command = parse(DIGITS, f"--workdir={workdir}", f"--stage={stage}")
        assert command["config"]["train.epochs"] == 20
    assert notes(capsys) == []


def test_a_configuration_of_other_data_is_refused(made):
    workdir, _ = made
    message = error_of("--config=folder", f"--workdir={workdir}", "--stage=report")
    assert message == (
        f"{workdir} was made with dataset.name='digits', --config=folder has 'folder': leave "
        "--config out, or use another --workdir"
    )


def test_images_that_a_run_cannot_find_from_here_are_said_to_be_missing(made):
    workdir, config = made
    config = config | {"dataset.name": "folder", "dataset.path": "nowhere"}
    (workdir / "config.json").write_text(json.dumps(config))
    message = error_of(f"--workdir={workdir}")
    assert message == (
        f"{workdir}/config.json has dataset.path='nowhere', which is not there when this is "
        f"started in {ROOT}: start it where the run was started, or give "
        "--config.dataset.path=DIR"
    )
    here = parse(f"--workdir={workdir}", f"--config.dataset.path={ROOT}")["config"]
    assert here["dataset.path"] == str(ROOT)
    assert parse(f"--workdir={workdir}", "--stage=report")["config"] == config


def test_a_comparison_needs_no_configuration():
    command = parse("--stage=report", "--config.report.compare=a,b", "--workdir=both")
    assert command["config"] == flatten(get_config()) | {"report.compare": "a,b"}


def test_a_config_json_is_read_as_data(made):
    workdir, config = made
    path = workdir / "config.json"
    command = parse(f"--config={path}", "--workdir=new", "--config.latent.dim=8")
    assert command["config"] == config | {"latent.dim": 8}
    assert error_of(f"--config={path}") == (
        f"--config={path} needs --workdir: {workdir} to continue there, or a new one"
    )
    message = error_of(f"--config={path}:10", "--workdir=new")
    assert message == f"{path} takes no argument: leave out ':10'"
    message = error_of(f"--config={workdir}", "--workdir=new")
    assert message == (
        f"there is no configuration file '{workdir}': {workdir} is a work directory: use "
        f"--config={path}, or only --workdir={workdir}"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"latent.dim": true}',
            "config.latent.dim is True: it must be a whole number",
        ),
        ('{"latent.dim": null}', "config.latent.dim is None"),
        ('{"latent.dmi": 3}', "cannot be used (this version knows no latent.dmi)"),
        ("import os", "cannot be used ("),
        ("[" * 100_000, "cannot be used ("),
        ("[1]", "cannot be used ("),
        ("\0", "cannot be used ("),
    ],
)
def test_a_json_of_other_content_is_refused(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    for given in (f"--config={tmp_path}/config.json", f"--workdir={tmp_path}"):
        assert message in error_of(given, "--workdir", str(tmp_path))


def test_a_damaged_config_json_does_not_hinder_who_names_another(made):
    workdir, _ = made
    (workdir / "config.json").write_text("{")
    command = parse(DIGITS, f"--workdir={workdir}", "--stage=report")
    assert command["config"]["train.epochs"] == 20


# What a configuration file raises


def raised_in(path, source: str) -> Exception:
    """The error of a file of this source."""
    path.write_text(source)
    with pytest.raises(Exception) as error:
        runpy.run_path(str(path))
    return error.value


def test_the_file_is_named_as_it_was_given_and_the_line_is_that_of_the_file(tmp_path):
    path = tmp_path / "packaged.py"
    error = raised_in(path, "a = 1\n\nb = a / 0\n")
    line = describe_config_error(error, "packaged:10", str(path))
    assert line == "packaged, line 3: ZeroDivisionError: division by zero"


def test_an_error_elsewhere_has_no_line(tmp_path):
    error = raised_in(tmp_path / "other.py", "1 / 0")
    line = describe_config_error(error, "mine.py", str(tmp_path / "mine.py"))
    assert line == "mine.py: ZeroDivisionError: division by zero"


def test_a_file_that_is_no_text_has_no_line(tmp_path):
    path = tmp_path / "mine.py"
    error = SyntaxError("source code string cannot contain null bytes")
    line = describe_config_error(error, "mine.py", str(path))
    assert line == "mine.py: SyntaxError: source code string cannot contain null bytes"


def test_what_a_config_says_itself_is_said_as_it_is():
    error = UserError("shots are a number")
    assert (
        describe_config_error(error, "cub:x", "cub.py")
        == "--config=cub:x: shots are a number"
    )


def test_a_warning_of_a_library_is_not_blamed_on_the_file(tmp_path):
    path, library = tmp_path / "mine.py", tmp_path / "library.py"
    library.write_text(
        "import warnings\ndef f():\n    warnings.warn('old', DeprecationWarning)"
    )
    path.write_text(f"import runpy\nrunpy.run_path({str(library)!r})['f']()\n")
    error = raised_in(path, path.read_text())  # warnings are errors in tests
    assert describe_config_error(error, "mine.py", str(path)) == (
        f"a library issued a warning at {library}:3, and Python is set to raise warnings as errors "
        "(-W error or PYTHONWARNINGS): DeprecationWarning: old; remove that setting for this "
        "program, or add -W 'ignore::DeprecationWarning' after it to ignore this warning"
    )
    error = raised_in(path, "import warnings\nwarnings.warn('mine')\n")
    assert (
        describe_config_error(error, "mine.py", str(path))
        == "mine.py, line 2: UserWarning: mine"
    )


def test_long_texts_are_shortened():
    line = describe_config_error(ValueError("x" * 10_000), "mine.py", "mine.py")
    assert len(line) < 500
