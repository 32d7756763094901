"""Command lines and configuration files with everything that can go wrong in one."""

import random
import re
from pathlib import Path
from typing import NamedTuple

from cglo_jax.config.defaults import flatten, get_config

DIGITS = "--config=configs/digits.py"
DEFAULTS = flatten(get_config())
RAN = "this_ran"  # what payloads would create in the working directory


class Case(NamedTuple):
    """Arguments, what their refusal names (one of these), and whether they may be accepted."""

    arguments: list[str]
    named: tuple[str, ...]
    may_pass: bool = False


# Values that no field of a type can have.
BAD = {
    bool: ["maybe", "2", "", "nan", "None", "(True,)", "真"],
    int: ["1.5", "x", "", "nan", "1e-3", "9" * 30, "9" * 5000, "None", "(1,)", "--1"],
    float: ["nan", "inf", "-inf", "1e999", "x", "", "1,5", "None", "(1.0,)", "1j"],
    list: ["(nan,)", "(-1,)", "(1e999,)", "(None,)", "({},)", "([[1]],)", "(object,)"],
}
CODE = f"__import__('os').system('touch {RAN}')"
TEXTS = [
    "",
    "x" * 10_000,
    "\x1b[2J",
    "\n",
    "\udcff",
    "../../etc",
    CODE,
    "None",
    "🎲",
    "~a/b",
]
BODIES = [
    "c = None",
    "c = 5",
    "c = [c]",
    "c = dict(c)",
    "c = 'text'",
    "c = type(c)",
    "c = c.latent",
    "c = c.seeds",
    "c = type(c)()",
    "c = type(c)({'latent': c})",
    "yield c",
    "return lambda: c",
    "sys.exit()",
    "sys.exit(0)",
    "sys.exit('bye\\nbye')",
    "exit(3)",
    "raise SystemExit",
    "raise GeneratorExit",
    "raise BaseException('a\\nb')",
    "raise MemoryError",
    "raise RecursionError",
    "raise Exception",
    "raise Exception('x' * 100_000)",
    "raise UnicodeDecodeError('utf8', b'a', 0, 1, 'x')",
    "raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})",
    "get_config()",
    "f = lambda: f(); f()",
    "c.latent = c",
    "c.latent = None",
    "c.latent.dim = None",
    "c.seeds = None",
    "c.dataset.path = 'a\\0b'",
    "c.dataset.name = None",
    "c.classify.flip = None",
    "c.train.code_lr = None",
    "c.train.epochs = 10 ** 400",
    "c.train.epochs = True",
    "c.train.epochs = float('nan')",
    "c.train.code_lr = 'x'",
    "c.train.code_lr = 1j",
    "c.seeds = (True, 2)",
    "c.seeds = tuple(range(10 ** 6)) * 2",
    "c.seeds = ('0',)",
    "c.seeds = ((0,),)",
    "c.unlock(); del c.seeds",
    "c.unlock(); del c.latent",
    "c.unlock(); c.latent = 5",
    "c.unlock(); c.more = 1",
    "c.lantent.dim = 3",
    "c.latent.dmi = 3",
    "(",
    "  c = c",
    "import nothing_of_the_kind",
    "import cglo_jax.nothing",
    "open('/nowhere/at/all')",
    "assert False, 'a\\nb'",
    "int('x')",
    "c = 1 / 0",
]
FILES = {
    "empty": b"",
    "nulls": bytes(100),
    "not_utf8": b"\xff\xfe\xfa",
    "other_coding": b"# coding: no-such\n",
    "image": b"\x89PNG\r\n\x1a\n",
    "tabs": b"def get_config():\n\tif 1:\n        pass\n",
    "class": b"class get_config: pass\n",
    "number": b"get_config = 3\n",
    "deep": b"x = " + b"(" * 10_000,
    "long": b"x = " + b"-" * 100_000 + b"1",
    "exits": b"import sys; sys.exit(0)\n",
    "prints": b"raise KeyError('a\\nb')\n",
    "needs_three": b"def get_config(a, b, c): pass\n",
    "lambda": b"get_config = lambda: None\n",
}
FLAGS = [
    (["--flagfile=/missing", DIGITS], "--flagfile"),
    ([DIGITS, "--flagfile", "/etc/passwd"], "--flagfile"),
    ([DIGITS, "-flagfile=."], "--flagfile"),
    ([DIGITS, "--config.seeds=0", "--config.seeds=1"], "seeds is given twice"),
    ([DIGITS, "--config.seeds=(0,)", "--config.seeds=(0,)"], "seeds is given twice"),
    (["--config.latent.dim=8"], "no --config"),
    (["\u2014config=digits"], "text program"),
    ([DIGITS, "--config.seeds=0", "1"], "config.seeds"),
    ([DIGITS, "--config.seeds={0,1}"], "config.seeds"),
    ([DIGITS, "--config.classify.methods='cglo"], "config.classify.methods"),
    ([DIGITS, "--config.dataset.path=", "DIR"], "config.dataset.path"),
    ([DIGITS, "--workdir="], "--workdir"),
    ([DIGITS, "--config.train.epochs", "=", "3"], "config.train.epochs"),
    (["--config=setup.cfg"], "setup.cfg"),
    (["--config=pyproject.toml"], "pyproject.toml"),
    (["--config=experiments/walk.ipynb"], "walk.ipynb"),
    ([DIGITS, "--config="], "--config"),
    ([DIGITS, "--config=/"], "'/'"),
    (["--config=configs/digits.py/"], "configs/digits.py/"),
    (["--config=configs/digits.py:"], "takes no argument"),
    (["--config=configs/digits.py:10:20"], "takes no argument"),
    (["--config=configs/cifar100.py:"], "configs/cifar100.py:"),
    (["--config=configs/cifar100.py:-5"], "-5"),
    (["--config=configs/cifar100.py:" + "9" * 5000], "configs/cifar100.py"),
    (["--config=configs/cifar100.py:10,\n"], "configs/cifar100.py:"),
    (["--config=/dev/null"], "/dev/null"),
    (["--config=/dev/zero"], "/dev/zero"),
    (["--config=" + "x" * 5000], "xxx"),
    (["--config=a\nb.py"], "b.py"),
    (["--config=\udcff.py"], "udcff"),
    (["--config=README.md"], "README.md"),
    ([DIGITS, "--stage="], "--stage"),
    ([DIGITS, "--stage=all,train"], "--stage"),
    ([DIGITS, "--stage=\n"], "--stage"),
    ([DIGITS, "--workdir"], "--workdir"),
    ([DIGITS, "--workdir=\udcff"], "--workdir=\\udcff"),
    ([DIGITS, "--workdir=" + "x" * 300], "--workdir=xxx"),
    ([DIGITS, "--workdir=" + "x/" * 3000], "--workdir=x/x"),
    ([DIGITS, "--wrokdir=a"], "wrokdir"),
    ([DIGITS, "--" + "x" * 200], "xxx"),
    ([DIGITS, "--", "--stage=all"], "--stage=all"),
    ([DIGITS, "-"], "'-'"),
    ([DIGITS, ""], "''"),
    ([DIGITS, "\n"], "options begin with --"),
    ([DIGITS, "--noconfig"], "noconfig"),
    ([DIGITS, "--config.seeds"], "--config.seeds"),
    ([DIGITS, "--config.seeds[0]=1"], "seeds[0]"),
    ([DIGITS, "--config.=1"], "''"),
    ([DIGITS, "--config.latent=1"], "'latent'"),
    ([DIGITS, "--config.__class__=1"], "__class__"),
    ([DIGITS, "--config.seeds=(" + "(" * 3000], "config.seeds"),
]


def values(rng: random.Random) -> list[Case]:
    """Fields with values that they cannot have, and texts that they might."""
    cases = []
    for kind, bad in BAD.items():
        fields = [name for name, value in DEFAULTS.items() if type(value) is kind]
        for value in bad:
            for name in rng.sample(fields, 2):
                arguments = [f"--config.{name}={value}"]
                if kind is not bool and rng.random() < 0.3:
                    arguments = [f"--config.{name}", value]
                # Names of methods are checked where JAX is imported.
                later = name == "classify.methods"
                cases.append(Case([DIGITS, *arguments], (f"config.{name} ",), later))
    texts = [name for name, value in DEFAULTS.items() if isinstance(value, str)]
    for value in TEXTS:
        name = rng.choice(texts)
        argument = f"--config.{name}={value}"
        cases.append(Case([DIGITS, argument], (f"config.{name} ",), True))
    return cases


def names(rng: random.Random) -> list[Case]:
    """Fields whose names are almost right."""
    cases = []
    for name in rng.sample(list(DEFAULTS), 30):
        at = rng.randrange(len(name))
        wrong = rng.choice(
            [
                name[:at] + name[at + 1 :],
                name[:at] + rng.choice("axz_.é ") + name[at:],
                name.upper(),
                name.replace(".", "_"),
                name.split(".")[-1] + "s",
            ]
        )
        if wrong not in DEFAULTS:
            said = (f"config has no field {wrong!r}",)
            cases.append(Case([DIGITS, f"--config.{wrong}=1"], said))
    return cases


def files(folder: Path) -> list[Case]:
    """Configuration files with everything that can go wrong in one."""
    contents = dict(FILES)
    for i, body in enumerate(BODIES):
        contents[f"body_{i}"] = (
            "import sys\nfrom cglo_jax import config\ndef get_config():\n"
            f"    c = config.get_config()\n    {body}\n    return c\n"
        ).encode()
    for name, content in contents.items():
        (folder / f"{name}.py").write_bytes(content)
    cases = []
    for name, content in contents.items():
        fields = re.findall(r"\bc\.([\w.]+) = ", content.decode(errors="replace"))
        named = (f"{folder / name}.py", *(f"config.{field} " for field in fields))
        cases.append(Case([f"--config={folder / name}.py"], named))
    return cases
