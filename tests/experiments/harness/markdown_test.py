"""Tests of experiments/harness/markdown.py on a made-up table."""

import dataclasses

import pytest

from experiments.harness import markdown
from experiments.harness.table import (
    BASELINE,
    CUT_OFF,
    TUNED,
    Row,
    Table,
    baselines,
    by_shots,
)

ENVIRONMENT = {
    **dict.fromkeys(("python", "jax", "jaxlib", "flax", "optax", "numpy"), "1.2"),
    "device": "abacus",
    "devices": 1,
    "commit": "c0ffee",
}


def line(
    top1: float, top5: float = 90.0, date: str = "2026-11-02", perceptual="-"
) -> dict:
    return {
        "top1": top1,
        "top5": top5,
        "date": date,
        "cores": 2,
        "platform": "wood",
        "classifier_weights": "none",
        "perceptual_weights": perceptual,
        "environment": ENVIRONMENT,
    }


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("43.84 ± 0.25", 43.84),
        ("24.8", 24.8),
        ("17.80 (35)", 17.8),
        ("-", None),
        ("", None),
        (CUT_OFF, None),
        ("ours", None),
    ],
)
def test_number(text, number):
    assert markdown.number(text) == number


def test_spread_by_hand():
    # Deviations -2, 0, 2: variance 8 / 2, error sqrt(4 / 3).
    assert markdown.spread([40.0, 42.0, 44.0]) == "42.00 ± 1.15 (3)"
    assert markdown.spread([1.0], "+") == "+1.00 (1)"
    assert markdown.spread([]) == ""


MADE_UP = Table(
    name="made_up",
    title="Table 0: made up",
    section="section 9",
    data="cifar100",
    columns={
        ("cpu", "digits"): by_shots({3: 25}),
        ("paper", "cifar100"): by_shots({25: 25}, dataset__transductive=True),
    },
    metrics=("top1", "top5"),
    rows=(
        Row(
            "cGLO", "cglo", paper={"25": "60.00 ± 1.00 / 80.00"}, cpu_name="small cGLO"
        ),
        *baselines({"25": "50.5 / " + CUT_OFF}),
        Row("mixup", "mixup"),
    ),
    note="A note.",
)


RESULTS = {
    ("cGLO", "3"): {
        0: {**line(70.0, 95.0, perceptual="some"), "cglo": "a1"},
        1: {**line(74.0, 97.0, perceptual="some"), "cglo": "b2"},
    },
    (BASELINE, "3"): {0: line(69.0), 1: line(69.0)},
    # Seed 0 alone is shared: 70 - 71.
    (TUNED, "3"): {0: line(71.0), 2: line(73.0, date="2026-11-05")},
}


def test_markdown_by_hand():
    text = markdown.to_markdown(
        MADE_UP, "cpu", "digits", RESULTS, ["Shrunk."], {"3": "Tuned well."}
    )
    assert text == (
        "## Table 0: made up (section 9; digits stands in for cifar100), --scale=cpu\n\n"
        f"{markdown.legend(MADE_UP, 'cpu', 'digits')}\n\n"
        "### 3 labelled images per class (paper: 25)\n\n"
        "Tuned well.\n\n"
        "|  | top-1, paper | top-1, ours | top-5, paper | top-5, ours | minus Baseline, paper "
        "| minus Baseline, ours | minus Baseline, tuned, ours |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| small cGLO | **60.00 ± 1.00** | **72.00 ± 2.00 (2)** | 80.00 "
        "| **96.00 ± 1.00 (2)** | +9.50 | +3.00 ± 2.00 (2) | -1.00 (1) |\n"
        "| Baseline | 50.5 | 69.00 ± 0.00 (2) | cut off in our copy "
        "| 90.00 ± 0.00 (2) |  |  | -2.00 (1) |\n"
        "| Baseline, tuned | ours | **72.00 ± 1.00 (2)** | ours | 90.00 ± 0.00 (2) |  "
        "| +2.00 (1) |  |\n"
        "| mixup | ours | not run | ours | not run |  |  |  |\n\n"
        "A note.\n\nShrunk.\n\n"
        "Run 2026-11-02 to 2026-11-05 on 1 x abacus (2 cores, wood).\n\n"
        "Versions: python 1.2, jax 1.2, jaxlib 1.2, flax 1.2, optax 1.2, numpy 1.2; commit "
        "c0ffee.\n\n"
        "Weights that classifiers start from: none; in cGLO's loss: some.\n"
    )


def test_accuracies_are_held_against_the_papers_on_its_data_only():
    results = {("cGLO", "25"): {0: line(61.0, 78.5)}}
    text = markdown.to_markdown(MADE_UP, "paper", "cifar100", results, [], {})
    assert (
        "| **60.00 ± 1.00** | 61.00 (1) | +1.00 | 80.00 | 78.50 (1) | -1.50 | +9.50 |  |  |"
        in text
    )
    assert text.count("ours - paper") == 2
    other = markdown.to_markdown(MADE_UP, "cpu", "digits", RESULTS, [], {})
    assert "ours - paper" not in other
    says = "This is not the paper's task: gains may be held against the paper's, accuracies not."
    assert (says in other, says in text) == (True, False)


def test_a_column_without_results_is_one_line():
    results = {("cGLO", "of another column"): {0: line(60.0)}}
    text = markdown.to_markdown(MADE_UP, "cpu", "digits", results, [], {"3": "Tuned."})
    assert "### 3 labelled images per class (paper: 25)\n\nNot run yet.\n" in text
    assert "|" not in text
    assert "Tuned." not in text


def test_a_table_of_ours_has_no_columns_of_the_paper():
    tuned = Row(TUNED, "baseline", tuned=True)
    table = dataclasses.replace(
        MADE_UP, rows=(tuned, Row("cGLO", "cglo")), metrics=("top1",)
    )
    text = markdown.column_markdown(table, "cpu", "digits", "3", RESULTS)
    assert text == (
        "|  | top-1, ours | minus Baseline, tuned, ours |\n"
        "| --- | --- | --- |\n"
        "| Baseline, tuned | **72.00 ± 1.00 (2)** |  |\n"
        "| cGLO | **72.00 ± 2.00 (2)** | -1.00 (1) |"
    )
    assert "paper" not in markdown.legend(table, "cpu", "digits")


def test_no_gain_over_a_baseline_that_the_paper_does_not_print():
    rows = (*baselines({"25": CUT_OFF}), *MADE_UP.rows[:1])
    table = dataclasses.replace(MADE_UP, rows=rows, metrics=("top1",))
    text = markdown.column_markdown(table, "cpu", "digits", "3", {})
    heads, _, *lines = text.splitlines()
    assert heads == (
        "|  | top-1, paper | top-1, ours | minus Baseline, ours | "
        "minus Baseline, tuned, ours |"
    )
    assert lines[2] == "| small cGLO | 60.00 ± 1.00 | not run |  |  |"


def test_markdown_without_runs_has_the_papers_numbers():
    text = markdown.to_markdown(MADE_UP, "paper", "cifar100", {}, [], {})
    heading, _, part, *_ = text.split("\n\n")
    assert heading == "## Table 0: made up (section 9), --scale=paper"
    assert part == "### 25 labelled images per class"
    assert (
        "| cGLO | **60.00 ± 1.00** | not run |  | 80.00 | not run |  | +9.50 |" in text
    )
