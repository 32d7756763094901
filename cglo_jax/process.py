"""What a program sets for its process before JAX starts."""

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


def prepare() -> None:
    """Sets what JAX reads when it starts, where the environment does not say otherwise."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # XLA's informational lines
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if _YNN_FLAG in flags or (flags and not flags.startswith("-")):  # a file of flags
        return
    os.environ["XLA_FLAGS"] = f"{flags} {_YNN_FLAG}={_ALL_BUT_CONVOLUTIONS}".strip()


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
