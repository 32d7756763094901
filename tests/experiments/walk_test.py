"""Tests of experiments/walk.ipynb: its cells run in their order on a made-up run."""

import json
import pathlib
import re

import matplotlib.pyplot as plt
import pytest

from tests.helpers.saved_run import put_classifier, put_run

NOTEBOOK = pathlib.Path(__file__).parents[2] / "experiments" / "walk.ipynb"


@pytest.fixture(scope="module")
def notebook() -> dict:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def code_of(notebook) -> list[str]:
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return ["".join(cell["source"]) for cell in cells]


def test_it_is_a_notebook_without_outputs(notebook):
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) > 10
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("code", "markdown")
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}


def test_its_cells_are_plain_python(notebook):
    for code in code_of(notebook):
        compile(code, "walk.ipynb", "exec")
        assert not re.search(r"^\s*[%!]", code, re.MULTILINE)


def test_its_cells_show_a_run(notebook, tmp_path, monkeypatch, capsys):
    config, dataset = put_run(tmp_path / "run")
    put_classifier(tmp_path / "run", config, dataset, "cglo", 0)
    monkeypatch.setenv("CGLO_WORKDIR", str(tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    shown = []

    def show():
        shown.append([len(axis.images) for axis in plt.gcf().axes])
        plt.gcf().canvas.draw()
        plt.close("all")

    monkeypatch.setattr(plt, "show", show)
    made = {}
    for code in code_of(notebook):
        exec(code, made)  # noqa: S102 - ours
    # Classes x 8 images, two rows of a class's first image, two walks, codes, probabilities.
    assert shown == [[1] * 24, [1] * 6, [1] * 18, [0], [0]]
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("24 training images of 3 classes")
    assert told[1] == " ".join(made["names"])
    assert len(made["names"]) == 9
