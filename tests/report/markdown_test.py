"""Tests of report/markdown.py on the report of a made-up work directory."""

from cglo_jax.report.markdown import to_markdown
from cglo_jax.report.page import Page, Picture, Section
from cglo_jax.report.write import write_report


def write(workdir, config):
    write_report(config, workdir)
    return (workdir / "report.md").read_text()


def test_names_are_escaped(workdir, config):
    rows = write(workdir, config).splitlines()
    assert '| 1 | &lt;b&gt;&amp;" | 6 | 60 |' in rows
    assert r"| 2 | a_b\|c | 5 | 75 |" in rows
    assert r"| 3 | \_x\_\*y\* | 5 | 65 |" in rows


def test_pictures_are_links_to_files(workdir, config):
    text = write(workdir, config)
    for name in ("reconstructions", "interpolations", "nearest", "codes"):
        assert f"](samples/{name}.png)" in text
        assert (workdir / "samples" / f"{name}.png").exists()
    assert "walks.png" not in text
    assert "Choose" not in text  # there is no slider


def test_confusion_is_a_table(workdir, config):
    text = write(workdir, config)
    table = text.partition("### cglo, summed over 3 seeds\n\n")[2]
    # Of 3 x 70 test images of the first class all are right.
    assert table.splitlines()[2].startswith("| plain | 210 | 0 |")


def test_curves_are_said_to_be_in_the_page_only_if_they_are(workdir, config):
    assert "Drawn in report.html." in write(workdir, config)
    (workdir / "metrics.jsonl").unlink()
    text = write(workdir, config)
    assert "Drawn in" not in text
    assert "There are none: --stage=train and --stage=classify write them." in text


def test_pictures_without_a_file_are_left_to_the_page():
    picture = Picture("a", "b", b"", (1, 1), "c", is_file=False)
    section = Section("d", blocks=[picture])
    assert to_markdown(Page("e", [], [section], file="f.html")) == (
        "# e\n\n## d\n\nDrawn in f.html.\n"
    )
