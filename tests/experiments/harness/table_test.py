"""Tests of experiments/tables.py, scales.py and the tables' declarations."""

import dataclasses
import importlib
import os
import pathlib
import re

import pytest

from cglo_jax.classifier.methods import METHODS
from cglo_jax.config.defaults import flatten, get_config
from experiments import scales, tables
from experiments.tables import Column, Row, Table

NAMES = [f"table{n}" for n in range(1, 7)]
ENVIRONMENT = {
    **dict.fromkeys(("python", "jax", "jaxlib", "flax", "optax", "numpy"), "1.2"),
    "device": "abacus",
    "devices": 1,
    "commit": "c0ffee",
}


def declared(name: str) -> Table:
    return importlib.import_module(f"experiments.{name}").TABLE


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


@pytest.mark.parametrize("name", NAMES)
def test_declarations_are_complete(name):
    table, known = declared(name), flatten(get_config())
    assert table.name == name
    assert {scale for scale, _ in table.columns} == set(scales.SCALES)
    assert {data for scale, data in table.columns if scale == "paper"} == {table.data}
    names = [row.name for row in table.rows]
    assert len(set(names)) == len(names)
    assert {tables.BASELINE, tables.TUNED, "cGLO"} <= set(names)
    printed = table.columns["paper", table.data]
    for key, columns in table.columns.items():
        assert key in scales.SETTINGS
        for column in columns.values():
            assert column.overrides.keys() <= known.keys()
            assert column.paper in printed
    for row in table.rows:
        assert row.method in METHODS
        assert row.overrides.keys() <= known.keys()
        assert not row.paper or row.paper.keys() == printed.keys()
        for text in row.paper.values():
            if text not in ("-", tables.CUT_OFF):
                assert len(text.split(" / ")) == len(table.metrics)


def test_numbers_of_the_paper():
    def number(name: str, row: str, column: str, metric: int = 0) -> float:
        table = declared(name)
        (found,) = (r for r in table.rows if r.name == row)
        text = tables.paper_number(found, Column("", column, {}), metric)
        return tables.number(text)

    assert number("table1", "cGLO", "10") == 28.55
    assert number("table1", "Barz & Denzler: cosine", "100") == 55.99
    assert number("table1", "Baseline", "10") is None
    assert number("table2", "MixMatch", "20") == 60.57
    assert number("table3", "lerp", "25", 1) == 70.51
    assert number("table4", "cosine loss of f_phi", "25") == 41.01
    assert number("table5", "MixMatch", "35000") == 50.34
    assert number("table6", "AutoAugment + cGLO", "50", 1) == 80.66


def test_cutout_is_a_quarter_of_small_and_half_of_large_images():
    shares = {}
    for key, setting in scales.SETTINGS.items():
        config = setting.config()
        side = config.dataset.crop or {"digits": 8, "cifar100": 32}[key[1]]
        shares[key] = config.classify.cutout_size / side
    assert {k: v for k, v in shares.items() if k[1] != "cub"} == {
        k: 0.25 for k in shares if k[1] != "cub"
    }
    assert shares["paper", "cub"] == shares["hour", "cub"] == 0.5


def test_paper_scale_is_as_configured():
    from configs import cifar100, cub

    for data, config in (("cifar100", cifar100), ("cub", cub)):
        setting = scales.SETTINGS["paper", data]
        assert flatten(setting.config()) == flatten(config.get_config())
        assert setting.seeds == (0, 1, 2)
        assert not setting.own_images


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("43.84 ± 0.25", 43.84),
        ("24.8", 24.8),
        ("17.80 (35)", 17.8),
        ("-", None),
        ("", None),
        (tables.CUT_OFF, None),
        ("ours", None),
    ],
)
def test_number(text, number):
    assert tables.number(text) == number


def test_spread_by_hand():
    # Deviations -2, 0, 2: variance 8 / 2, error sqrt(4 / 3).
    assert tables.spread([40.0, 42.0, 44.0]) == "42.00 ± 1.15 (3)"
    assert tables.spread([1.0], "+") == "+1.00 (1)"
    assert tables.spread([]) == ""


MADE_UP = Table(
    name="made_up",
    title="Table 0: made up",
    section="section 9",
    data="cifar100",
    columns={
        ("cpu", "digits"): tables.by_shots({3: 25}),
        ("paper", "cifar100"): tables.by_shots({25: 25}, dataset__transductive=True),
    },
    metrics=("top1", "top5"),
    rows=(
        Row(
            "cGLO", "cglo", paper={"25": "60.00 ± 1.00 / 80.00"}, cpu_name="small cGLO"
        ),
        *tables.baselines({"25": "50.5 / " + tables.CUT_OFF}),
        Row("mixup", "mixup"),
    ),
    note="A note.",
)


def test_by_shots():
    (column,) = MADE_UP.columns["paper", "cifar100"].values()
    assert column.overrides == {"dataset.shots": 25, "dataset.transductive": True}


RESULTS = {
    ("cGLO", "3"): {
        0: {**line(70.0, 95.0, perceptual="some"), "cglo": "a1"},
        1: {**line(74.0, 97.0, perceptual="some"), "cglo": "b2"},
    },
    (tables.BASELINE, "3"): {0: line(69.0), 1: line(69.0)},
    # Seed 0 alone is shared: 70 - 71.
    (tables.TUNED, "3"): {0: line(71.0), 2: line(73.0, date="2026-11-05")},
}


def test_markdown_by_hand():
    text = tables.to_markdown(
        MADE_UP, "cpu", "digits", RESULTS, ["Shrunk."], {"3": "Tuned well."}
    )
    assert text == (
        "## Table 0: made up (section 9; digits stands in for cifar100), --scale=cpu\n\n"
        f"{tables.legend(MADE_UP, 'cpu', 'digits')}\n\n"
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
    text = tables.to_markdown(MADE_UP, "paper", "cifar100", results, [], {})
    assert (
        "| **60.00 ± 1.00** | 61.00 (1) | +1.00 | 80.00 | 78.50 (1) | -1.50 | +9.50 |  |  |"
        in text
    )
    assert text.count("ours - paper") == 2
    other = tables.to_markdown(MADE_UP, "cpu", "digits", RESULTS, [], {})
    assert "ours - paper" not in other
    says = "This is not the paper's task: gains may be held against the paper's, accuracies not."
    assert (says in other, says in text) == (True, False)


def test_a_column_without_results_is_one_line():
    results = {("cGLO", "of another column"): {0: line(60.0)}}
    text = tables.to_markdown(MADE_UP, "cpu", "digits", results, [], {"3": "Tuned."})
    assert "### 3 labelled images per class (paper: 25)\n\nNot run yet.\n" in text
    assert "|" not in text
    assert "Tuned." not in text


def test_a_table_of_ours_has_no_columns_of_the_paper():
    tuned = Row(tables.TUNED, "baseline", tuned=True)
    table = dataclasses.replace(
        MADE_UP, rows=(tuned, Row("cGLO", "cglo")), metrics=("top1",)
    )
    text = tables.column_markdown(table, "cpu", "digits", "3", RESULTS)
    assert text == (
        "|  | top-1, ours | minus Baseline, tuned, ours |\n"
        "| --- | --- | --- |\n"
        "| Baseline, tuned | **72.00 ± 1.00 (2)** |  |\n"
        "| cGLO | **72.00 ± 2.00 (2)** | -1.00 (1) |"
    )
    assert "paper" not in tables.legend(table, "cpu", "digits")


def test_no_gain_over_a_baseline_that_the_paper_does_not_print():
    rows = (*tables.baselines({"25": tables.CUT_OFF}), *MADE_UP.rows[:1])
    table = dataclasses.replace(MADE_UP, rows=rows, metrics=("top1",))
    text = tables.column_markdown(table, "cpu", "digits", "3", {})
    heads, _, *lines = text.splitlines()
    assert heads == (
        "|  | top-1, paper | top-1, ours | minus Baseline, ours | "
        "minus Baseline, tuned, ours |"
    )
    assert lines[2] == "| small cGLO | 60.00 ± 1.00 | not run |  |  |"


def test_markdown_without_runs_has_the_papers_numbers():
    text = tables.to_markdown(MADE_UP, "paper", "cifar100", {}, [], {})
    heading, _, part, *_ = text.split("\n\n")
    assert heading == "## Table 0: made up (section 9), --scale=paper"
    assert part == "### 25 labelled images per class"
    assert (
        "| cGLO | **60.00 ± 1.00** | not run |  | 80.00 | not run |  | +9.50 |" in text
    )


ENTRY = re.compile(r"(\d+(?:\.\d+)?)(?: *[±+] *(\d+\.\d+))?( \([\d.]+\))?")


def entries(cell: str) -> list[str]:
    """Returns the numbers of a cell of paper.md as "1.0 ± 0.1", "1.0 (2)" or "1.0"."""
    plain = re.sub(r"[${}~]", " ", cell.replace(r"\pm", "±"))
    return [
        f"{value} ± {error}" if error else f"{value}{estimate}"
        for value, error, estimate in ENTRY.findall(re.sub(r" +", " ", plain))
    ]


@pytest.fixture(scope="module")
def paper() -> list[list[list[str]]]:
    """Returns the cells of the lines of each of the paper's six tables, below their heads."""
    shared = os.environ.get("CGLO_SHARED")
    if not shared:
        pytest.skip("needs CGLO_SHARED, a directory holding paper.md")
    path = pathlib.Path(shared) / "paper.md"
    if not path.is_file():
        pytest.skip(f"CGLO_SHARED: there is no {path}")
    blocks, heads = [], ("SAMPLES/CLASS\t", "Model\t", "Method\t", "AutoAu.\t")
    previous = ""
    for text in path.read_text(encoding="utf-8").splitlines():
        if text.startswith(heads):
            blocks.append([])
        elif "\t" in text and "\t" in previous:
            blocks[-1].append(text.split("\t"))
        previous = text
    assert len(blocks) == 6
    return blocks


METHODS_COMPARED = (
    "Baseline",
    "cGLO",
    "MixMatch",
    "Cutout",
    "Random Erasing",
    "Barz & Denzler: cosine",
)


def printed(name: str) -> dict[str, dict[str, str]]:
    return {row.name: dict(row.paper) for row in declared(name).rows if row.paper}


def test_table_1_is_the_papers(paper):
    ((shots, *cells),) = paper[0]
    ours = printed("table1")
    assert tuple(ours) == METHODS_COMPARED
    for row, cell in zip(ours.values(), cells, strict=True):
        assert list(row) == shots.split()
        there = [text for text in row.values() if text != tables.CUT_OFF]
        assert there == entries(cell)
    # Two numbers have no line in paper.md: they are the middle two, see Tables 3 and 6.
    missing = [k for k, v in ours["Baseline"].items() if v == tables.CUT_OFF]
    assert missing == ["10", "100"]


def test_table_2_is_the_papers(paper):
    expected = {method: {} for method in METHODS_COMPARED}
    for shots, *cells in paper[1]:
        for method, cell in zip(expected, cells, strict=True):
            (expected[method][shots],) = entries(cell)
    assert printed("table2") == expected


@pytest.mark.parametrize(("name", "lines"), [("table3", 6), ("table4", 5)])
def test_tables_3_and_4_are_the_papers(paper, name, lines):
    ours = printed(name)
    block = paper[int(name[-1]) - 1]
    assert len(block) == lines
    for label, *cells in block:
        (row,) = (r for r in ours if r.casefold().startswith(label.casefold()))
        text = " / ".join(entry for cell in cells for entry in entries(cell))
        assert ours.pop(row) == {"25": text}
    # Table 4 repeats two lines of Table 3.
    assert ours == {row: printed("table3")[row] for row in ours}
    assert set(ours) == ({"cGLO", "Baseline"} if name == "table4" else set())


def test_table_5_is_the_papers(paper):
    columns = ("0", "1000", "35000")
    expected = {
        method: {
            column: (entries(cell) or [cell])[0]
            for column, cell in zip(columns, cells, strict=True)
        }
        for method, *cells in paper[4]
    }
    assert printed("table5") == expected


def test_table_6_is_the_papers(paper):
    names = {
        (False, False): "Baseline",
        (False, True): "cGLO",
        (True, False): "AutoAugment",
        (True, True): "AutoAugment + cGLO",
    }
    expected = {}
    for autoaugment, cglo, *cells in paper[5]:
        row = names[bool(autoaugment.strip()), bool(cglo.strip())]
        text = " / ".join(entry for cell in cells for entry in entries(cell))
        expected[row] = {"50": text}
    assert printed("table6") == expected
