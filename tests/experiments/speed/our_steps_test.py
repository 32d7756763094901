"""Tests of experiments/speed/our_steps.py and of the benchmarks that need no PyTorch."""

import dataclasses
import statistics
import sys

import numpy as np
import pytest

from cglo_jax.errors import UserError
from cglo_jax.files import storage
from experiments.speed import digits, our_steps, sampling, scale
from tests.helpers.tiny import create_config, create_dataset


def test_programs_take_turns():
    order, waited = [], []
    programs = {name: lambda name=name: order.append(name) for name in "ab"}
    times = our_steps.take_turns(programs, turns=2, steps=3, wait=waited.append)
    assert "".join(order) == "aaaabbbb" * 3  # a turn, and a step of each, to warm up
    assert {name: len(t) for name, t in times.items()} == {"a": 2, "b": 2}
    assert len(waited) == 2 * 2 * 3


@pytest.mark.slow
def test_steps_are_taken_and_measured():
    dataset = create_dataset()
    ours = our_steps.our_cglo(create_config(), dataset, 0)
    assert ours.count_flops() > 1e5
    sizes = scale.measure_memory(ours)
    assert sizes["arguments"] > 0 and sizes["own"] > 0
    program = ours.create_program()
    assert [program()["loss"] > 0 for _ in range(2)] == [True, True]
    one, three = (
        our_steps.our_cglo(create_config(), dataset, 0).create_program(per_call)
        for per_call in (1, 3)
    )
    taken = [(one(), three()) for _ in range(6)]
    assert [metrics is None for _, metrics in taken] == [True, True, *[False] * 4]
    for i in (2, 5):  # the third step of a call
        metrics, last = taken[i]
        assert float(last["loss"]) == pytest.approx(float(metrics["loss"]), 1e-4)
    config = create_config(**{"classify.width": 1})
    step = our_steps.our_classifier(config, dataset).create_program()
    assert step()["loss"] > 0


@pytest.mark.slow
def test_a_step_takes_no_more_time_and_memory_with_more_images():
    programs, own = {}, []
    for n in (1000, 300_000):
        dataset = dataclasses.replace(
            create_dataset(),
            images=np.zeros((n, 8, 8, 1), np.uint8),
            labels=np.arange(n, dtype=np.int32) % 3,
            ids=tuple(map(str, range(n))),
        )
        ours = our_steps.our_cglo(create_config(), dataset, 0)
        own.append(scale.measure_memory(ours)["own"])
        programs[n] = ours.create_program()
    assert own[0] == own[1]
    times = our_steps.take_turns(programs, turns=7, steps=5)
    few, many = (statistics.median(seconds) for seconds in times.values())
    # A copy of the codes would take longer than the step. The benchmark has the true ratio.
    assert many < 1.5 * few


def test_lines_of_the_scale_tables_by_hand():
    times = {10: [1.0, 2.0, 3.0], 1_000_000: [1.1, 2.0, 3.6]}
    assert scale.times_to_markdown(times).splitlines()[2:] == [
        "| 10 | 2000.0 (1000.0-3000.0) | 1.000 |",
        "| 1,000,000 | 2000.0 (1100.0-3600.0) | 1.100 |",
    ]
    row = {"arguments": 10**9, "own": 3e6}
    text = scale.memory_to_markdown({"net": row})
    assert text.splitlines()[2:] == ["| net | 1,000.0 | 3.0 |"]


def test_all_ways_of_sampling_make_as_many_images():
    ways = sampling.create_ways(create_config(), create_dataset(), 256)
    assert {name: make() for name, make in ways.items()} == {
        "G alone": 768,
        "to memory": 768,
        "to disk": 768,
    }


def test_the_digits_run_is_measured_or_its_end_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(digits, "RESULTS", tmp_path / "results.jsonl")
    monkeypatch.setattr(sys, "argv", ["benchmark_digits", "--runs=2"])
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    monkeypatch.setenv("CGLO_CACHE", "mine")
    program = (
        "import os; print(os.environ['CGLO_CACHE'], 1 / {}, "
        "os.environ.get('JAX_COMPILATION_CACHE_DIR'))"
    )
    monkeypatch.setattr(digits, "COMMAND", ("-c", program.format(1)))
    digits.main()
    assert capsys.readouterr().out.count("\n| ") == 2
    (record,) = storage.read_records(tmp_path / "results.jsonl")
    assert [0 < run["wall_s"] < 60 for run in record["runs"]] == [True, True]
    monkeypatch.setattr(digits, "COMMAND", ("-c", program.format(0)))
    with pytest.raises(UserError, match=r"(?s)failed: .*ZeroDivisionError"):
        digits.main()
