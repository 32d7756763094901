"""What a program sets for its process before JAX starts."""

import os
import pathlib
import sys

# Which operations XLA:CPU of jaxlib 0.10 to 0.12 gives to YNNPACK. Without convolutions they go to
# Eigen, whose weight gradients are up to 4 times as fast (experiments/README.md, "Speed").
_LIBRARIES = "--xla_cpu_experimental_ynn_fusion_type"
_ALL_BUT_CONVOLUTIONS = "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
_HUGE_PAGES = "glibc.malloc.hugetlb=1"
_POLICY = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def prepare() -> None:
    """Sets what JAX reads when it starts, where the environment does not say otherwise."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # XLA's informational lines
    flags = os.environ.get("XLA_FLAGS", "")
    if _LIBRARIES not in flags:
        flags = f"{flags} {_LIBRARIES}={_ALL_BUT_CONVOLUTIONS}".strip()
        os.environ["XLA_FLAGS"] = flags


def use_huge_pages() -> None:
    """Starts this program anew, once, with memory in huge pages where Linux leaves the choice.

    A step's memory is got and given back by each step, and pages of 2 MB take a fraction of the
    time that 4 KB take (experiments/README.md, "Speed"). glibc reads the setting only when a process
    starts. Any GLIBC_TUNABLES in the environment, even an empty one, leaves all as it is.
    """
    if "GLIBC_TUNABLES" in os.environ or not _may_choose():
        return
    os.environ["GLIBC_TUNABLES"] = _HUGE_PAGES
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _may_choose() -> bool:
    try:
        return "[madvise]" in _POLICY.read_text()
    except OSError:  # not Linux
        return False
