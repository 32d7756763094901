"""Starts JAX; if the environment asks for what JAX does not have here, the error is one line."""

import importlib.metadata
import os
import re
import subprocess
import sys
from types import ModuleType

from cglo_jax.errors import UserError, shorten
from cglo_jax.process import setup

_KNOWN = ("cpu", "cuda", "rocm", "gpu", "tpu")
_VARIABLES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
_FLAGS = "XLA_FLAGS"
_OURS = r"--xla_cpu_experimental_ynn_fusion_type=\S+"  # set by `setup.prepare`
_TRIED = r"--xla_force_host_platform_device_count=\d+(?=\s|$)"
_PARSE = "from jaxlib import xla_client; xla_client.CompileOptions()"


def start() -> ModuleType:
    """Imports JAX, lets it find its devices and returns it; quick if that was done before.

    Raises:
      UserError: the environment names a platform, a flag or a value that JAX does not have here.
    """
    jax = import_jax()
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise UserError(_explain(jax, error)) from None
    return jax


def import_jax() -> ModuleType:
    """Imports and returns JAX, which reads the environment, but does not look for devices.

    Raises:
      UserError: the environment has a value that JAX does not take.
    """
    if "jax" not in sys.modules:
        setup.check_threads()
        _check_flags()
    try:
        import jax
    except ValueError as error:
        names = re.findall(r"\bjax_\w+", str(error), re.IGNORECASE)
        given = [n for n in map(str.upper, names) if n in os.environ]
        if not given:
            raise
        raise UserError(
            f"the environment has {given[-1]}={os.environ[given[-1]]!r}, which JAX does not take "
            f"({error}): unset or correct it"
        ) from None
    return jax


def note() -> str:
    """Returns a line to print if the first platform that JAX_PLATFORMS names is not the one used, else ""."""
    import jax

    asked, used = os.environ.get("JAX_PLATFORMS", "").split(",")[0], jax.devices()[0]
    same = {"gpu": ("gpu", "cuda", "rocm"), "tpu": ("tpu",)}.get(
        used.platform, ("cpu",)
    )
    if not asked or asked in same:
        return ""
    return (
        f"JAX_PLATFORMS={os.environ['JAX_PLATFORMS']}: there is no {asked} here, {used.platform} "
        "is used"
    )


def explain_memory(error: BaseException) -> str:
    """Returns one line if an error means that a device or the host is out of memory, else ""."""
    of_jax = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    if not isinstance(error, MemoryError) and not (
        of_jax and "RESOURCE_EXHAUSTED" in str(error)
    ):
        return ""
    text = " ".join(str(error).split()) or "of the host"
    return (
        f"out of memory ({shorten(text)}): use a smaller batch_size, width or "
        "config.reconstruction.cache_gb, or a device that nothing else uses"
    )


def _check_flags() -> None:
    """Refuses flags that XLA does not know, for which it would end the process.

    Another process tries them, if there are other flags than the ones that we set.
    """
    flags = re.sub(_OURS, "", os.environ.get(_FLAGS, "")).strip()
    if not re.sub(_TRIED, "", flags).strip():
        return
    tried = subprocess.run(
        [sys.executable, "-c", _PARSE], capture_output=True, text=True, check=False
    )
    if tried.returncode == 0 or "Traceback" in tried.stderr:  # that shows later
        return
    lines = tried.stderr.splitlines() or [""]
    line = next((line for line in lines if re.match(r"[FE]\d{4} ", line)), lines[0])
    reason = shorten(re.sub(r"^[FE]\d{4} .*?\] ", "", line).strip())
    raise UserError(
        f"the environment has {_FLAGS}={flags!r}, which XLA does not take ({reason}): unset or "
        "correct it"
    )


def _explain(jax: ModuleType, error: Exception) -> str:
    """Returns which platform was asked for, which there are, and what to do, in one line."""
    asked = jax.config.jax_platforms or os.environ.get("JAX_PLATFORM_NAME", "")
    settings = (
        f"{name}={os.environ[name]}" for name in _VARIABLES if os.environ.get(name)
    )
    where = next(settings, f"jax_platforms={asked}")
    variable = where.partition("=")[0]
    text = shorten(" ".join(str(error).split()).partition(" (set JAX_PLATFORMS")[0])
    names = asked.split(",")
    strange = [name for name in names if name not in _KNOWN]
    of_gpu = any(name in ("cuda", "gpu", "rocm") for name in names)
    others = [] if of_gpu else ["cuda" if "cuda" in p else p for p in _plugins()]
    there = f"unset {variable} to use what there is ({', '.join(['cpu', *others])})"
    if strange:
        return (
            f"{where} asks for {strange[0]!r}, which is not a JAX platform: use cpu, cuda or tpu, "
            f"with commas and without spaces, or {there}"
        )
    if of_gpu:
        if not _plugins():
            return (
                f"{where} asks for a GPU, but this JAX is for the CPU only: pip install "
                f"'jax[cuda12]' or 'jax[cuda13]' for an NVIDIA GPU, or {there}"
            )
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden is not None:
            return (
                f"{where} asks for a GPU, but JAX finds none with CUDA_VISIBLE_DEVICES={hidden!r}: "
                f"unset that or name GPUs that nvidia-smi lists, or {there}"
            )
        return (
            f"{where} asks for a GPU, but JAX finds none ({text or type(error).__name__}): see "
            f"whether nvidia-smi lists one, or {there}"
        )
    if "tpu" in names:
        return (
            f"{where} asks for a TPU, but JAX finds none ({text}): pip install 'jax[tpu]' on a "
            f"Cloud TPU, or {there}"
        )
    return f"{where}: JAX finds no device ({text or type(error).__name__}): {there}"


def _plugins() -> list[str]:
    """Returns the names of JAX's installed plugins for GPUs."""
    found = importlib.metadata.entry_points(group="jax_plugins")
    return sorted({point.name for point in found})
