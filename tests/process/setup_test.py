"""Tests of cglo_jax/process/setup.py."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from cglo_jax.errors import UserError
from cglo_jax.process import setup

_LOG_LEVEL, _FLAGS, _MEMORY = "TF_CPP_MIN_LOG_LEVEL", "XLA_FLAGS", "GLIBC_TUNABLES"
_PROGRAMS = "JAX_COMPILATION_CACHE_DIR"


def run(program: str, **environment: str) -> list[str]:
    """Runs Python code that ends by printing, returns the lines."""
    kept = {
        k: v for k, v in os.environ.items() if k not in (_FLAGS, _MEMORY, _PROGRAMS)
    }
    command = [
        sys.executable,
        "-c",
        f"from cglo_jax.process import setup as process\n{program}",
        "x y",
    ]
    done = subprocess.run(
        command, env={**kept, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_what_the_environment_has_is_kept(monkeypatch):
    mine = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE"
    monkeypatch.setenv(_LOG_LEVEL, "3")
    monkeypatch.setenv(_FLAGS, mine)
    setup.prepare()
    assert (os.environ[_LOG_LEVEL], os.environ[_FLAGS]) == ("3", mine)


def test_flags_are_added_to_those_of_the_environment(monkeypatch):
    monkeypatch.setenv(_LOG_LEVEL, "1")
    monkeypatch.setenv(_FLAGS, "--xla_cpu_multi_thread_eigen=true")
    setup.prepare()
    setup.prepare()
    first, *others = os.environ[_FLAGS].split()
    assert first == "--xla_cpu_multi_thread_eigen=true"
    assert [flag.partition("=")[0] for flag in others] == [
        "--xla_cpu_experimental_ynn_fusion_type"
    ]


def test_a_file_of_flags_is_left_alone(monkeypatch):
    monkeypatch.setenv(_LOG_LEVEL, "1")
    monkeypatch.setenv(_FLAGS, "/etc/flags")
    setup.prepare()
    assert os.environ[_FLAGS] == "/etc/flags"


@pytest.fixture(name="two_cores")
def _two_cores(monkeypatch):
    """An environment that sets no devices and threads, on two cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    for name in (_FLAGS, "NPROC", "PJRT_NPROC", "JAX_NUM_CPU_DEVICES"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({}, None),  # one device has the threads that it always had
        ({_FLAGS: "--xla_force_host_platform_device_count=1"}, None),
        ({"JAX_NUM_CPU_DEVICES": "1"}, None),
        ({_FLAGS: "--xla_force_host_platform_device_count=4"}, "16"),
        ({_FLAGS: "--a=1 --xla_force_host_platform_device_count=8 --b"}, "32"),
        ({"JAX_NUM_CPU_DEVICES": "2"}, "16"),
        ({_FLAGS: "FILE"}, "24"),
    ],
)
def test_devices_of_a_cpu_get_threads_enough(
    two_cores, monkeypatch, tmp_path, environment, threads
):
    (tmp_path / "flags").write_text("--xla_force_host_platform_device_count=6\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("FILE", str(tmp_path / "flags")))
    before = setup.count_threads()  # the folder of programs is named after it
    setup.prepare()
    setup.check_threads()
    assert os.environ.get("NPROC") == threads
    assert setup.count_threads() == before == int(threads or 2)


def test_many_cores_have_threads_enough(two_cores, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setenv(_FLAGS, "--xla_force_host_platform_device_count=4")
    before = setup.count_threads()
    setup.prepare()
    assert setup.count_threads() == before == 16


@pytest.mark.parametrize("name", ["NPROC", "PJRT_NPROC"])
def test_threads_that_are_given_count_unless_they_are_too_few(
    two_cores, monkeypatch, name
):
    monkeypatch.setenv(_FLAGS, "--xla_force_host_platform_device_count=4")
    monkeypatch.setenv(name, "8")
    setup.prepare()
    setup.check_threads()
    assert (os.environ[name], setup.count_threads()) == ("8", 8)
    monkeypatch.setenv(name, "4")
    with pytest.raises(UserError) as error:
        setup.check_threads()
    assert str(error.value) == (
        f"the environment has {name}=4, and 4 CPU devices (XLA_FLAGS or JAX_NUM_CPU_DEVICES): "
        f"with so few threads they wait for each other for good: unset {name}, or make it 16"
    )


@pytest.mark.slow
def test_four_devices_on_few_cores_come_to_their_end(tmp_path):
    """They waited for each other until XLA aborted the process, not every time."""
    flags = "--xla_force_host_platform_device_count=4"
    kept = {k: v for k, v in os.environ.items() if k not in ("NPROC", _FLAGS)}
    fields = [
        "train.epochs=1",
        "train.steps_per_epoch=40",
        "train.batch_size=48",
        "seeds=0",
    ]
    for i in range(6):
        command = [
            sys.executable,
            "-m",
            "cglo_jax.main",
            "--config=digits",
            "--stage=train",
        ]
        command += [
            f"--workdir={tmp_path / str(i)}",
            *[f"--config.{f}" for f in fields],
        ]
        environment = {**kept, _FLAGS: flags, "CGLO_CACHE": str(tmp_path / "cache")}
        subprocess.run(command, env=environment, check=True, timeout=300)


def test_xla_takes_the_flags():
    """A flag that XLA does not know ends the process; this one changes who convolves."""
    program = """
process.prepare()
import jax, jax.numpy as jnp
layout = ("NHWC", "HWIO", "NHWC")
conv = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=layout)
x, k = jnp.ones((8, 16, 16, 32)), jnp.ones((3, 3, 32, 32))
print("ynn" in jax.jit(conv).lower(x, k).compile().as_text())
"""
    assert run(program) == ["False"]
    if jax.__version_info__ < (0, 12):  # later versions need not
        assert run(program.replace("process.prepare()", "")) == ["True"]


def test_a_program_starts_anew_once_with_its_arguments(tmp_path):
    policy = tmp_path / "enabled"
    policy.write_text("always [madvise] never\n")
    program = f"""
import os, pathlib, sys
process._POLICY = pathlib.Path({str(policy)!r})
print("start", flush=True)
process.use_huge_pages()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv)
"""
    started = ["start", "start", "glibc.malloc.hugetlb=1 ['-c', 'x y']"]
    assert run(program) == started
    assert run(program, GLIBC_TUNABLES="") == ["start", " ['-c', 'x y']"]
    policy.write_text("[always] madvise never\n")
    assert run(program) == ["start", "None ['-c', 'x y']"]
    policy.write_text("always [madvise] never\n")
    debugged = f"import sys\nsys.settrace(lambda *_: None)\n{program}"
    assert run(debugged) == ["start", "None ['-c', 'x y']"]
    policy.unlink()
    assert run(program) == ["start", "None ['-c', 'x y']"]


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("CGLO_CACHE", str(tmp_path / "cache"))
    assert setup.cache_dir() == tmp_path / "cache"
    monkeypatch.setenv("CGLO_CACHE", "~/mine")
    assert setup.cache_dir() == tmp_path / "home" / "mine"
    monkeypatch.delenv("CGLO_CACHE")
    assert setup.cache_dir() == tmp_path / "xdg" / "cglo_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert setup.cache_dir() == tmp_path / "home" / ".cache" / "cglo_jax"


PROGRAM = """
process.keep_programs()
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.monitoring.register_event_listener(lambda event, **_: print(event.split("/")[-1]))
jax.jit(lambda x: x + 1)(1.0)
"""


@pytest.mark.parametrize("first", ["", "import jax\n"])
def test_programs_are_kept_and_found_again(tmp_path, first):
    seen = []
    for threads in ("2", "2", "1"):
        lines = run(
            first + PROGRAM,
            CGLO_CACHE=str(tmp_path),
            NPROC=threads,
            JAX_ENABLE_COMPILATION_CACHE="true",
        )
        seen.append((lines.count("cache_misses") > 0, lines.count("cache_hits") > 0))
    # Programs for two threads are not for one.
    assert seen == [(True, False), (False, True), (True, False)]
    folders = {path.parent for path in tmp_path.glob("programs/*/jit__lambda-*-cache")}
    assert {folder.name[0] for folder in folders} == {"1", "2"}
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in folders)


@pytest.fixture(name="root")
def _root(monkeypatch, tmp_path):
    """The folder that programs are kept in, in an environment that does not set it."""
    monkeypatch.setenv("CGLO_CACHE", str(tmp_path))
    monkeypatch.setenv("NPROC", "3")
    monkeypatch.setenv(_PROGRAMS, "to be restored")
    monkeypatch.delenv(_PROGRAMS)
    before = jax.config.jax_compilation_cache_dir
    yield tmp_path / "programs"
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("given", ["", "/mine"])
def test_a_folder_in_the_environment_is_used(root, monkeypatch, given):
    monkeypatch.setenv(_PROGRAMS, given)
    setup.keep_programs()
    assert os.environ[_PROGRAMS] == given and not root.exists()


def test_a_child_with_other_threads_has_another_folder(root, monkeypatch):
    setup.keep_programs()
    mine = os.environ[_PROGRAMS]
    assert mine.startswith(str(root / "3-threads-"))
    monkeypatch.setenv("NPROC", "1")
    setup.keep_programs()
    assert os.environ[_PROGRAMS] == mine.replace("3-threads", "1-threads")


def test_other_processors_have_another_folder(root, monkeypatch, tmp_path):
    folders = set()
    for flags in ("sse4 avx", "sse4 avx avx512", None):
        (tmp_path / "cpuinfo").write_text(f"model: x\nflags : {flags}\n" * bool(flags))
        monkeypatch.setattr(setup, "_PROCESSOR", tmp_path / "cpuinfo")
        setup.keep_programs()
        folders.add(os.environ[_PROGRAMS])
    assert len(folders) == 3


def test_no_program_is_kept_where_that_cannot_be(root):
    root.write_text("in the way")
    setup.keep_programs()
    assert _PROGRAMS not in os.environ


def test_no_program_is_kept_where_others_can_write(root):
    setup.keep_programs()
    os.chmod(os.environ[_PROGRAMS], 0o770)
    setup.keep_programs()
    assert _PROGRAMS not in os.environ


@pytest.mark.parametrize("place", ["the cache", "programs", "the folder"])
@pytest.mark.parametrize("how", ["group", "all", "another user", "another user's link"])
def test_no_program_is_kept_where_others_may_change_it(root, monkeypatch, place, how):
    setup.keep_programs()
    folder = pathlib.Path(os.environ[_PROGRAMS])
    path = {"the cache": root.parent, "programs": root, "the folder": folder}[place]
    if how == "group":
        path.chmod(0o775)
    elif how == "all":
        path.chmod(0o777)
    else:
        if "link" in how:  # to a folder of ours
            path.rename(path.with_name("moved"))
            path.symlink_to(path.with_name("moved"))
        stat = os.lstat if "link" in how else os.stat
        strange, inode = os.geteuid() + 1, stat(path).st_ino

        def give_away(status: os.stat_result) -> os.stat_result:
            if status.st_ino != inode:
                return status
            return os.stat_result((*status[:4], strange, *status[5:10]))

        for name in ("stat", "lstat"):
            real = getattr(pathlib.Path, name)
            monkeypatch.setattr(
                pathlib.Path,
                name,
                lambda self, real=real, **flags: give_away(real(self, **flags)),
            )
    setup.keep_programs()
    assert _PROGRAMS not in os.environ


def test_a_link_of_ones_own_to_another_disk_is_followed(root, tmp_path):
    (tmp_path / "disk").mkdir(mode=0o700)
    root.symlink_to(tmp_path / "disk")
    setup.keep_programs()
    assert pathlib.Path(os.environ[_PROGRAMS]).parent == root


def test_nothing_is_made_in_the_folder_of_another_user(root, monkeypatch, tmp_path):
    """As root with somebody's HOME."""
    monkeypatch.setenv("CGLO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    owner = pathlib.Path.stat

    def strange(self, **flags):
        status = owner(self, **flags)
        return os.stat_result((*status[:4], 12345, *status[5:10]))

    monkeypatch.setattr(pathlib.Path, "stat", strange)
    setup.keep_programs()
    assert _PROGRAMS not in os.environ and os.listdir(tmp_path) == []


def test_a_model_is_not_used_after_a_fork(monkeypatch):
    monkeypatch.setattr(setup, "_loaded_by", None)
    setup.check_not_forked()
    setup.check_not_forked()
    monkeypatch.setattr(setup, "_loaded_by", os.getpid() + 1)
    with pytest.raises(UserError, match="does not survive a fork"):
        setup.check_not_forked()


def test_the_oldest_programs_leave(root, monkeypatch):
    setup.keep_programs()
    folder, other = pathlib.Path(os.environ[_PROGRAMS]), root / "9-threads-0123abcd"
    (folder / "xla_gpu_per_fusion_autotune_cache_dir").mkdir()
    other.mkdir()
    folders = {"d": folder, "b": other, "c": folder}
    paths = [at / f"jit_{name}-{64 * '0'}-cache" for name, at in folders.items()]
    theirs = [folder / "my-cache", root / "photos" / f"x-{64 * '0'}-cache"]
    for path in theirs:  # names of somebody else's, or folders
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (1, 1))
    for age, path in enumerate(paths):
        path.write_bytes(bytes(10))
        os.utime(path, (1000 - age, 1000 - age))
    monkeypatch.setattr(setup, "_MOST_PROGRAMS", 25)
    setup.keep_programs()
    assert [path.exists() for path in paths] == [True, True, False]
    assert all(path.exists() for path in theirs)
    assert os.environ[_PROGRAMS] == str(folder)


def test_what_a_killed_process_may_have_half_written_is_compiled_anew(tmp_path):
    """The last program of a run that is killed is cut: JAX would warn of it for good."""
    environment = {
        "CGLO_CACHE": str(tmp_path),
        "NPROC": "2",
        "JAX_ENABLE_COMPILATION_CACHE": "true",
    }
    run(PROGRAM, **environment)
    (first,) = tmp_path.glob("programs/*/jit__lambda-*-cache")
    killed = PROGRAM.replace("x + 1", "x - 2") + "import os; os.kill(os.getpid(), 9)"
    with pytest.raises(subprocess.CalledProcessError):
        run(killed, **environment)
    (cut,) = set(tmp_path.glob("programs/*/jit__lambda-*-cache")) - {first}
    cut.write_bytes(cut.read_bytes()[:-20])
    warned = "import warnings\nwarnings.simplefilter('error')\n"
    lines = run(warned + PROGRAM.replace("x + 1", "x - 2"), **environment)
    assert lines.count("cache_misses") == 1
    assert "cache_hits" in run(warned + PROGRAM, **environment)  # the first is kept
    assert not list(tmp_path.glob("programs/*/*.running"))


def test_programs_of_a_process_that_still_runs_stay(root):
    setup.keep_programs()
    folder = pathlib.Path(os.environ[_PROGRAMS])
    new = folder / f"jit_new-{64 * '0'}-cache"
    new.write_bytes(b"being written")
    setup.keep_programs()  # as another process does
    assert new.exists()
