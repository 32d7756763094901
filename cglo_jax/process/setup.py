"""What a program sets for its process before JAX starts, unless the environment has set it."""

import atexit
import contextlib
import hashlib
import os
import pathlib
import platform
import re
import sys
import tempfile

from cglo_jax.errors import UserError
from cglo_jax.process import streams

# Which operations XLA:CPU gives to YNNPACK. Without convolutions they go to Eigen, whose weight
# gradients are up to 4 times as fast (docs/measurements.md, "Speed on two cores"). XLA ends a process
# that has a flag it does not know: this one was tried with jaxlib 0.10.2 and 0.12.0.1.
_YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_ALL_BUT_CONVOLUTIONS = "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
# The devices that a CPU is divided into wait for each other in threads of one pool. With as many threads
# as devices, or a few more, they wait for ever, and XLA ends the process after 40 s; with twice as many
# they did not on two cores; we give four times as many.
_DEVICES_FLAG = r"--xla_force_host_platform_device_count=(\d+)"
_THREADS = ("PJRT_NPROC", "NPROC")  # in the order in which XLA reads them
_HUGE_PAGES = "glibc.malloc.hugetlb=1"
_POLICY = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
_PROCESSOR = pathlib.Path("/proc/cpuinfo")
_PROGRAMS = "JAX_COMPILATION_CACHE_DIR"
_FOLDER = re.compile(r"\d+-threads-[0-9a-f]{8}")  # of programs
_PROGRAM = re.compile(r".+-[0-9a-f]{64}-cache")
_MOST_PROGRAMS = 10**9  # bytes of compiled programs that are kept
_ours = False  # see `own`
_loaded_by: int | None = None  # the process that first loaded a model


def start() -> None:
    """Prepares the process of a program that computes, at its very beginning."""
    streams.mend()
    use_huge_pages()
    own()
    keep_programs()
    prepare()


def own() -> None:
    """Records that a program of ours began this process, so that its warnings and logs may be changed.

    In any other process the package is a library: it changes nothing that other threads use.
    """
    global _ours
    _ours = True


def is_ours() -> bool:
    """Returns whether a program of ours began this process, see `own`."""
    return _ours


def check_not_forked() -> None:
    """Checks that no model was loaded before this process was forked: it would hang in JAX.

    It must be called before a model is loaded or used.

    Raises:
      UserError: a model was loaded before the fork.
    """
    global _loaded_by
    if _loaded_by is None:
        _loaded_by = os.getpid()
    if _loaded_by != os.getpid():
        raise UserError(
            "this process was forked from one that had loaded a model, and JAX does not survive a "
            "fork: load the model in each worker, in newly started processes "
            "(multiprocessing.get_context('spawn'), gunicorn without --preload)"
        )


def prepare() -> None:
    """Sets XLA's flags, threads and log level in the environment, unless they are set there."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # XLA's informational lines
    if _count_cpu_devices() > 1:
        os.environ.setdefault("NPROC", str(count_threads()))
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if _YNN_FLAG in flags or (flags and not flags.startswith("-")):  # a file of flags
        return
    os.environ["XLA_FLAGS"] = f"{flags} {_YNN_FLAG}={_ALL_BUT_CONVOLUTIONS}".strip()


def cache_dir() -> pathlib.Path:
    """Returns $CGLO_CACHE, else $XDG_CACHE_HOME/cglo_jax, else ~/.cache/cglo_jax."""
    path = os.environ.get("CGLO_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "cglo_jax"
    )
    return pathlib.Path(os.path.expanduser(path)).absolute()


def keep_programs() -> None:
    """Makes JAX keep programs that take more than a second to compile in a folder of `cache_dir()`.

    JAX finds a program again by its operations, flags and compiler, but XLA:CPU compiles it for a number
    of threads and the instructions of a processor: each combination has its own folder. A
    JAX_COMPILATION_CACHE_DIR in the environment is not changed. Nothing is kept if the folder cannot be
    made, or if it, or a folder that it is in up to `cache_dir()`, is not this user's or others can write
    to it: JAX runs programs without checking them.
    """
    root = cache_dir() / "programs"
    given = os.environ.get(_PROGRAMS)
    if given is not None and not pathlib.Path(given).is_relative_to(root):
        return  # else the process that started this one has set it
    os.environ.pop(_PROGRAMS, None)
    folder = root / f"{count_threads()}-threads-{_hash_instructions()}"
    try:
        if not all(_make_own(path) for path in (cache_dir(), root, folder)):
            return
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    _remove_cut_off(folder)
    _remove_oldest(root, _MOST_PROGRAMS)
    os.environ[_PROGRAMS] = str(folder)
    if "jax" in sys.modules:  # which has read the environment before
        sys.modules["jax"].config.update("jax_compilation_cache_dir", str(folder))


def _make_own(folder: pathlib.Path) -> bool:
    """Makes a folder if there is none; returns whether it is this user's, and no one else's.

    A link to a folder must be this user's, too. In another user's folder nothing is made.
    """
    user = os.geteuid() if hasattr(os, "geteuid") else 0  # Windows
    if not os.path.lexists(folder):
        there = next(path for path in folder.parents if path.exists())
        if there.stat().st_uid not in (user, 0):
            return False
        with contextlib.suppress(FileExistsError):  # another process made it
            folder.mkdir(mode=0o700, parents=True)
    status = folder.stat()
    owners = {folder.lstat().st_uid, status.st_uid}
    return owners == {user} and not status.st_mode & 0o022


def count_threads() -> int:
    """Returns the number of threads of XLA:CPU, once `prepare` was called; 0 if the environment has no number."""
    for name in _THREADS:
        if asked := os.environ.get(name, ""):
            return int(asked) if asked.isdecimal() else 0
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # on Linux
        cores = len(os.sched_getaffinity(0))
    devices = _count_cpu_devices()
    enough = devices == 1 or cores >= 4 * devices
    return cores if enough else max(16, 4 * devices)


def check_threads() -> None:
    """Checks that the devices that a CPU is divided into have enough threads.

    Raises:
      UserError: the environment sets too few threads.
    """
    devices = _count_cpu_devices()
    given = next((name for name in _THREADS if os.environ.get(name)), "")
    if given and devices > 1 and count_threads() < 2 * devices:
        raise UserError(
            f"the environment has {given}={os.environ[given]}, and {devices} CPU devices "
            "(XLA_FLAGS or JAX_NUM_CPU_DEVICES): with so few threads they wait for each other for "
            f"good: unset {given}, or make it {max(16, 4 * devices)}"
        )


def _count_cpu_devices() -> int:
    """Returns how many devices the environment divides the CPU into."""
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if flags and not flags.startswith("-"):  # a file of flags
        try:
            flags = pathlib.Path(flags).read_text(errors="replace")
        except OSError:  # XLA reports it
            flags = ""
    asked = re.findall(_DEVICES_FLAG, flags)[-1:]
    asked.append(os.environ.get("JAX_NUM_CPU_DEVICES", ""))
    return max([1, *(int(n) for n in asked if n.isdecimal() and len(n) < 10)])


def _hash_instructions() -> str:
    """Returns a short digest of the instructions that this processor has."""
    try:
        lines = _PROCESSOR.read_text().splitlines()
        known = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):  # not Linux
        known = platform.machine() + platform.processor()
    return hashlib.sha256(known.encode()).hexdigest()[:8]


def _remove_cut_off(folder: pathlib.Path) -> None:
    """Removes programs that a killed process may have been writing, and marks this process as running.

    JAX writes a program in place and never replaces a damaged one, but warns at every start. A
    process locks its mark, a file, as long as it lives.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    for mark in folder.glob("*.running"):
        with contextlib.suppress(OSError), mark.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            began = mark.stat().st_mtime_ns
            for path in _find_programs(folder):
                if path.stat().st_mtime_ns >= began:
                    path.unlink()
            mark.unlink()
    with contextlib.suppress(OSError):  # a network disk may have no locks
        number, name = tempfile.mkstemp(".running", dir=folder)
        atexit.register(pathlib.Path(name).unlink, missing_ok=True)
        # Until the process ends, which also closes the file.
        fcntl.flock(number, fcntl.LOCK_EX)


def _find_programs(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files in a folder that are named as JAX names programs."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if _PROGRAM.fullmatch(path.name)]


def _remove_oldest(root: pathlib.Path, most: int) -> None:
    """Removes the oldest programs below a folder until the others have at most `most` bytes.

    JAX's own limit does not work any more once a process was killed while it wrote.
    """
    entries = []
    for folder in root.iterdir():
        for path in _find_programs(folder) if _FOLDER.fullmatch(folder.name) else ():
            with contextlib.suppress(OSError):  # another process removed it
                entries.append((path.stat().st_mtime, path.stat().st_size, path))
    for _, size, path in sorted(entries, reverse=True):
        most -= size
        if most < 0:
            with contextlib.suppress(OSError):
                path.unlink()


def use_huge_pages() -> None:
    """Restarts this program, once, with memory in huge pages if Linux leaves the choice.

    A step allocates and frees its memory, and pages of 2 MB take a fraction of the time of 4 KB
    pages (docs/measurements.md, "Speed on two cores"). glibc reads the setting only when a process
    starts; child processes inherit it. Any GLIBC_TUNABLES in the environment, even an empty one,
    prevents this, and so does a program that is not a file: a notebook, standard input, a debugger.
    """
    if "GLIBC_TUNABLES" in os.environ or not _may_restart() or not _on_request():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.environ["GLIBC_TUNABLES"] = _HUGE_PAGES
    with contextlib.suppress(OSError):  # it only stays slower
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    del os.environ["GLIBC_TUNABLES"]


def _may_restart() -> bool:
    """Whether the same arguments start the same program."""
    interactive = sys.flags.interactive or "ipykernel" in sys.modules or sys.gettrace()
    read_in = sys.orig_argv[1:2] in ([], ["-"])  # a program from standard input
    return bool(sys.executable) and not interactive and not read_in


def _on_request() -> bool:
    """Whether Linux gives huge pages to programs that ask for them."""
    try:
        return "[madvise]" in _POLICY.read_text()
    except OSError:  # not Linux
        return False
