"""What a program sets for its process before JAX starts, where the environment does not say otherwise."""

import contextlib
import os
import pathlib
import sys

# Which operations XLA:CPU gives to YNNPACK. Without convolutions they go to Eigen, whose weight
# gradients are up to 4 times as fast (experiments/README.md, "Speed on two cores"). XLA ends a process
# over a flag that it does not know: tried with jaxlib 0.10.2 and 0.12.0.1.
_YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_ALL_BUT_CONVOLUTIONS = "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
_HUGE_PAGES = "glibc.malloc.hugetlb=1"
_POLICY = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MOST_PROGRAMS = 10**9  # bytes of compiled programs that are kept


def start() -> None:
    """Prepares the process of a program; everything that is run from a shell begins with it."""
    use_huge_pages()
    keep_programs()
    prepare()


def prepare() -> None:
    """Sets how XLA computes and what it logs."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # XLA's informational lines
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
    """Lets JAX keep what it compiles in `cache_dir()`/programs.

    A program is found again by its operations, flags, compiler, threads and kind of processor. An
    empty JAX_COMPILATION_CACHE_DIR keeps none; so does a folder that cannot be written to.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = cache_dir() / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_oldest(folder, _MOST_PROGRAMS)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def _remove_oldest(folder: pathlib.Path, most: int) -> None:
    """Removes the oldest files of a folder until the others have at most `most` bytes.

    JAX's own limit fails for good once a process is killed while it writes.
    """
    entries = sorted((entry.stat().st_mtime, entry) for entry in folder.iterdir())
    for _, entry in reversed(entries):
        most -= entry.stat().st_size
        if most < 0:
            entry.unlink(missing_ok=True)


def use_huge_pages() -> None:
    """Starts this program anew, once, with memory in huge pages where Linux leaves the choice.

    A step allocates and frees its memory, and pages of 2 MB take a fraction of the time that 4 KB
    take (experiments/README.md, "Speed on two cores"). glibc reads the setting only when a process
    starts; child processes inherit it. Any GLIBC_TUNABLES in the environment, even an empty one,
    leaves all as it is, and so does a program that is no file: a notebook, standard input, a debugger.
    """
    if "GLIBC_TUNABLES" in os.environ or not _may_restart() or not _on_request():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.environ["GLIBC_TUNABLES"] = _HUGE_PAGES
    with contextlib.suppress(OSError):  # slower, no worse
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    del os.environ["GLIBC_TUNABLES"]


def _may_restart() -> bool:
    """Whether the same arguments start the same program."""
    interactive = sys.flags.interactive or "ipykernel" in sys.modules or sys.gettrace()
    read_in = sys.orig_argv[1:2] in ([], ["-"])  # a program from standard input
    return bool(sys.executable) and not interactive and not read_in


def _on_request() -> bool:
    """Whether Linux gives huge pages to those who ask for them."""
    try:
        return "[madvise]" in _POLICY.read_text()
    except OSError:  # not Linux
        return False
