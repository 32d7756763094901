"""Tests of cglo_jax/process/platforms.py: what the environment asks of JAX in vain is one clear line."""

import os
import subprocess
import sys
import types

import jax.numpy as jnp
import pytest

from cglo_jax.process import platforms

START = """
from cglo_jax import errors
from cglo_jax.process import platforms
try:
    print("device", platforms.start().devices()[0].platform, platforms.note())
except errors.UserError as error:
    print(error)
"""
NAMES = (
    "JAX_PLATFORMS",
    "JAX_PLATFORM_NAME",
    "XLA_FLAGS",
    "CUDA_VISIBLE_DEVICES",
    "NPROC",
)
UNSET = "unset JAX_PLATFORMS to use what there is (cpu"
GPU = "asks for a GPU, but this JAX is for the CPU only: pip install 'jax[cuda12]'"


def start(*arguments: str, code: str = START, **environment: str) -> str:
    """Returns the one line of a process with this environment."""
    kept = {k: v for k, v in os.environ.items() if k not in NAMES}
    done = subprocess.run(
        [sys.executable, *(arguments or ("-c", code))],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = (done.stdout + done.stderr).splitlines()
    return line


@pytest.mark.parametrize(
    ("environment", "parts"),
    [
        ({"JAX_PLATFORMS": "cuda"}, ["JAX_PLATFORMS=cuda ", GPU, UNSET]),
        ({"JAX_PLATFORM_NAME": "gpu"}, ["JAX_PLATFORM_NAME=gpu ", GPU]),
        ({"JAX_PLATFORMS": "tpu"}, ["JAX_PLATFORMS=tpu asks for a TPU", UNSET]),
        (
            {"JAX_PLATFORMS": "CPU"},
            [
                "JAX_PLATFORMS=CPU asks for 'CPU', which is not a JAX platform: use cpu, ",
                UNSET,
            ],
        ),
        ({"JAX_PLATFORMS": ""}, ["device cpu"]),
        ({"JAX_PLATFORMS": "cpu"}, ["device cpu"]),
        (
            {"JAX_PLATFORMS": "cuda,cpu"},
            ["device cpu JAX_PLATFORMS=cuda,cpu: there is no cuda here, cpu is used"],
        ),
        (
            {"JAX_ENABLE_X64": "maybe"},
            [
                "the environment has JAX_ENABLE_X64='maybe', which JAX does not take (",
                "unset",
            ],
        ),
        (
            {"XLA_FLAGS": "--xla_nonsense=1"},
            ["has XLA_FLAGS='--xla_nonsense=1', which XLA does not take (Unknown flag"],
        ),
        (
            {"XLA_FLAGS": "/no/such"},
            ["has XLA_FLAGS='/no/such'", 'Could not open file "/no/such"'],
        ),
        (
            {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "NPROC": "4"},
            ["has NPROC=4, and 4 CPU devices", "unset NPROC, or make it 16"],
        ),
    ],
)
def test_what_is_asked_for_in_vain(environment, parts):
    if platforms._plugins():
        pytest.skip("this JAX is for GPUs, too")
    line = start(**environment)
    assert all(part in line for part in parts), line


def test_programs_and_the_library_say_so(tmp_path):
    main = ("-m", "cglo_jax.main", "--config=digits", f"--workdir={tmp_path}")
    predict = ("-m", "cglo_jax.predict", "--workdir=x", "--method=cglo", "x")
    for program in (main, predict):
        assert start(*program, JAX_PLATFORMS="nonsense").startswith(
            "error: JAX_PLATFORMS=nonsense asks for 'nonsense', which is not a JAX platform"
        )
    for call in ("load('x')", "load_classifier('x', 'cglo')"):
        code = START.replace("platforms.start()", f"cglo_jax.{call}", 1)
        line = start(code=f"import cglo_jax\n{code}", JAX_PLATFORMS="nonsense")
        assert line.startswith("JAX_PLATFORMS=nonsense asks for")
    assert not list(tmp_path.iterdir())


def test_a_device_out_of_memory_is_told_of_in_one_line():
    with pytest.raises(Exception) as error:
        jnp.zeros(1 << 50, jnp.uint8).block_until_ready()
    line = platforms.explain_memory(error.value)
    assert line.startswith("out of memory (RESOURCE_EXHAUSTED: ") and "\n" not in line
    assert "use a smaller batch_size" in line
    assert platforms.explain_memory(MemoryError()).startswith(
        "out of memory (of the host)"
    )
    assert platforms.explain_memory(ValueError("RESOURCE_EXHAUSTED")) == ""


@pytest.mark.parametrize(
    ("hidden", "reason"),
    [
        (
            "",
            "but JAX finds none with CUDA_VISIBLE_DEVICES='': unset that or name GPUs",
        ),
        (
            None,
            "but JAX finds none (no CUDA-capable device): see whether nvidia-smi lists one",
        ),
    ],
)
def test_a_gpu_that_is_not_seen_is_not_a_package_that_is_missing(
    monkeypatch, hidden, reason
):
    """As it is where JAX for CUDA is installed; tried without it."""
    monkeypatch.setattr(platforms, "_plugins", lambda: ["xla_cuda12"])
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    fake = types.SimpleNamespace(config=types.SimpleNamespace(jax_platforms="cuda"))
    line = platforms._explain(fake, RuntimeError("no CUDA-capable device"))
    assert line.startswith(f"JAX_PLATFORMS=cuda asks for a GPU, {reason}")
    assert line.endswith("unset JAX_PLATFORMS to use what there is (cpu)")
