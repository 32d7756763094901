"""Tests of cglo_jax/process/streams.py: whatever standard output and error are, programs go on."""

import io
import os
import pathlib
import subprocess
import sys
import time

import pytest

from cglo_jax.process import streams

# Prints to both, to Python's stream and the descriptor, with letters that few encodings have; "file"
# has the next number that is free.
PROGRAM = """
import os, sys
from cglo_jax.process import streams
streams.mend()
file = open("file", "w")
for i in range(3):
    print("caf\\u00e9 \\u540d\\u524d \\udcff", i)
    print("printed", i, file=sys.stderr, flush=True)
    sys.stdout.flush()
for number in (1, 2):
    try:
        os.write(number, b"from C\\n")
    except OSError:
        pass
file.write("of the file")
file.close()
"""
ROOT = {"PYTHONPATH": str(pathlib.Path(streams.__file__).parents[2])}
PRINTED = "".join(f"printed {i}\n" for i in range(3)) + "from C\n"


def shell(command: str, folder, program: str = PROGRAM, **environment: str):
    """Runs `command`, in which $RUN is a program, in bash; its status is that of $RUN."""
    (folder / "program.py").write_text(program)
    environment |= {"RUN": f"{sys.executable} program.py", **ROOT}
    script = f"{command}\nexit ${{PIPESTATUS[0]}}"
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "out", "err"),
    [
        ("$RUN >&-", None, PRINTED),
        ("$RUN 2>&-", "", None),
        ("$RUN <&-", "", PRINTED),
        ("$RUN <&- >&- 2>&-", None, None),
        ("$RUN >/dev/full", None, PRINTED),
        ("$RUN 2>/dev/full", "", None),
        ("$RUN >/dev/full 2>&1", None, None),
        ("$RUN | true", None, PRINTED),
        ("$RUN 2>&1 | true", None, None),
    ],
)
@pytest.mark.parametrize("flags", ["", "-u"])
def test_a_program_goes_on_and_ends_well(tmp_path, command, out, err, flags):
    done = shell(
        command.replace("$RUN", f"{sys.executable} {flags} program.py"), tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == "of the file"
    lines = [f"caf\u00e9 \u540d\u524d \\udcff {i}\n" for i in range(3)]
    assert done.stdout.decode() == ("" if out is None else "".join(lines) + "from C\n")
    assert done.stderr.decode() == (err or "")


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, rb"caf\xe9 \u540d\u524d \udcff"),
        ({"PYTHONIOENCODING": "latin-1"}, b"caf\xe9 \\u540d\\u524d \\udcff"),
        ({"PYTHONIOENCODING": "cp1252"}, b"caf\xe9 \\u540d\\u524d \\udcff"),
        ({"PYTHONIOENCODING": "ascii:replace"}, b"caf? ?? ?"),
        (
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            rb"caf\xe9 \u540d\u524d \udcff",
        ),
        ({"PYTHONUTF8": "1"}, "caf\u00e9 \u540d\u524d \\udcff".encode()),
    ],
)
def test_letters_that_cannot_be_shown_are_escapes(tmp_path, environment, shown):
    done = shell("$RUN", tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == [shown + b" 0", shown + b" 1"]


def test_a_stream_that_the_program_made_itself_goes_on(tmp_path):
    program = """
import io, sys
from cglo_jax.process import streams
sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="ascii")
print("before")
streams.mend()
print("caf\u00e9")
"""
    assert shell("$RUN", tmp_path, program).stdout == b"before\ncaf\\xe9\n"


def test_a_pipe_that_does_not_wait_loses_nothing(tmp_path):
    program = """
import sys
from cglo_jax.process import streams
streams.mend()
for i in range(20_000):
    print("line", i)
"""
    (tmp_path / "program.py").write_text(program)
    read, write = os.pipe()
    os.set_blocking(write, False)
    command = [sys.executable, str(tmp_path / "program.py")]
    pipes = {"stdout": write, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=os.environ | ROOT, **pipes) as process:
        os.close(write)
        time.sleep(0.5)  # until it is full
        with open(read) as lines:
            assert lines.read() == "".join(f"line {i}\n" for i in range(20_000))
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_another_programs_streams_come_back(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setattr(sys, "stderr", None)  # as of pythonw
    descriptors = [os.fstat(number) for number in range(3)]
    with streams.mended():
        print("printed")
        print("nowhere", file=sys.stderr, flush=True)
        assert not sys.stderr.isatty()
    assert (sys.stdout, sys.stderr) == (file, None)
    assert file.getvalue() == "printed\n"
    assert [os.fstat(number) for number in range(3)] == descriptors


def test_a_result_that_cannot_be_written_is_an_error(tmp_path):
    program = """
import sys
from cglo_jax.process import streams
streams.mend()
print("a result")
try:
    streams.check_output()
except OSError as error:
    print(type(error).__name__, error.strerror, error.filename, file=sys.stderr)
"""
    full = shell("$RUN >/dev/full", tmp_path, program)
    assert full.stderr == b"OSError No space left on device standard output\n"
    unread = shell("$RUN | true", tmp_path, "import time; time.sleep(0.3)\n" + program)
    assert unread.stderr == b"BrokenPipeError Broken pipe standard output\n"
    for command in ("$RUN", "$RUN >&-"):  # what is closed was not asked for
        assert shell(command, tmp_path, program).stderr == b""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_line_is_in_a_file_at_once_whatever_python_is_asked_for(tmp_path, unbuffered):
    program = (
        "import sys; from cglo_jax.process import streams; streams.mend();"
        "print('printed', file=sys.stderr); print(open(sys.argv[1]).read(), end='')"
    )
    path = tmp_path / "stderr"
    with path.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-c", program, path],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stderr=file,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    assert done.stdout == "printed\n"
