"""README.md, CHANGELOG.md and docs/: links, anchors, paths, commands, fields and stages exist."""

import ast
import functools
import pathlib
import re

import pytest

from cglo_jax.classifier.methods import METHODS
from cglo_jax.cli.help import FLAGS, STAGES
from cglo_jax.config.defaults import get_config
from cglo_jax.config.fields import CGLO, CLASSIFIER, FIELDS, affects
from cglo_jax.training import run_log

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CHANGELOG.md",
    *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
)
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`]+)`")
_PATH = re.compile(
    r"(?<![\w./~-])((?:cglo_jax|configs|experiments|tests|docs|\.ci)/[\w./<>*-]*\w/?|\.ci/\w+)"
    r"(?::([A-Za-z_]\w*))?"
)
_PLACEHOLDER = re.compile(r"<\w+>|[A-Z]{2,}(?=[-.])|(?<=[a-z])N(?=[-/.])")
_MODULE = re.compile(r"python -m ((?:cglo_jax|experiments)(?:\.\w+)*)")
_FIELD = re.compile(r"--(?:no)?config\.([a-z]\w*(?:\.\w+)*)")
_SUFFIXES = ("md", "html", "txt", "json", "jsonl", "py")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def slugs(text: str) -> set[str]:
    """Returns the anchors of a page: GitHub's of its headings, and its `<a id=...>`."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.*)$", _FENCE.sub("", text), re.MULTILINE):
        words = re.sub(r"\]\([^)]*\)", "", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        count = sum(
            re.fullmatch(rf"{re.escape(slug)}(-\d+)?", s) is not None for s in found
        )
        found.append(f"{slug}-{count}" if count else slug)
    return {*found, *re.findall(r'<a id="([^"]+)">', text)}


def broken_links(text: str, folder: pathlib.Path) -> list[str]:
    """Returns the links of a page in `folder` that lead nowhere in the repository."""
    broken = []
    for link in _LINK.findall(_FENCE.sub("", text)):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        path = (folder / name) if name else None
        if (
            path is not None
            and not (path.exists() and path.resolve().is_relative_to(ROOT))
        ) or (
            anchor and anchor not in slugs(path.read_text("utf-8") if path else text)
        ):
            broken.append(link)
    return broken


def missing_paths(text: str) -> list[str]:
    """Returns the paths of the repository that a page names and that are not there.

    <name>, N and words in capitals stand for anything. `path:name` is a name that a file defines.
    """
    missing = []
    for path, name in _PATH.findall(text):
        pattern = _PLACEHOLDER.sub("*", path.rstrip("/"))
        found = list(ROOT.glob(pattern))
        if not found or (path.endswith("/") and not found[0].is_dir()):
            missing.append(path)
        elif name and name not in _defined(found[0]):
            missing.append(f"{path}:{name}")
    return missing


@functools.cache
def _defined(path: pathlib.Path) -> set[str]:
    """Returns the names that a Python file defines at module level."""
    names: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def missing_modules(text: str) -> list[str]:
    """Returns the modules that `python -m` is given and that cannot be run."""
    files = {m: ROOT / m.replace(".", "/") for m in _MODULE.findall(text)}
    return [
        module
        for module, path in files.items()
        if not (path.with_suffix(".py").exists() or (path / "__main__.py").exists())
    ]


@functools.cache
def _fields() -> frozenset[str]:
    """Returns all fields and sections of a configuration by their dotted names."""
    found: list[str] = []

    def walk(values: dict, prefix: str) -> None:
        for name, value in values.items():
            found.append(prefix + name)
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")

    walk(get_config().to_dict(), "")
    return frozenset(found)


def missing_fields(text: str) -> list[str]:
    """Returns the fields that a page names, `--config.a.b` or `a.b`, and that there are not."""
    sections = {name.partition(".")[0] for name in _fields() if "." in name}
    named = _FIELD.findall(text)
    for span in _SPAN.findall(_FENCE.sub("", text)):
        match = re.fullmatch(r"(\w+)\.(\w+)(=\S*)?", span)
        if match and match[1] in sections and match[2] not in _SUFFIXES:
            named.append(f"{match[1]}.{match[2]}")
    return [name for name in named if name not in _fields()]


def missing_stages(text: str) -> list[str]:
    return [s for s in re.findall(r"--stage=([a-z]\w*)", text) if s not in STAGES]


def missing_tests(text: str) -> list[str]:
    """Returns the tests that a page names without their folder and that there are not."""
    files = {path.stem for path in ROOT.glob("tests/**/*_test.py")}
    spans = _SPAN.findall(_FENCE.sub("", text))
    return [s for s in spans if re.fullmatch(r"\w{2,}_test", s) and s not in files]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_anchor_leads_somewhere(page):
    assert broken_links(text_of(page), (ROOT / page).parent) == []


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "check",
    [missing_paths, missing_modules, missing_fields, missing_stages, missing_tests],
)
def test_what_a_page_names_is_there(page, check):
    assert check(text_of(page)) == []


@pytest.mark.parametrize(
    ("check", "text", "found"),
    [
        (missing_paths, "`configs/cub.py:10` `configs/birds.py`", ["configs/birds.py"]),
        (
            missing_paths,
            "`configs/*.py` `docs/<page>.md` `tests/nine/`",
            ["tests/nine/"],
        ),
        (
            missing_paths,
            "`configs/cub.py:get_config` `configs/cub.py:get_all`",
            ["configs/cub.py:get_all"],
        ),
        (
            missing_modules,
            "python -m cglo_jax.main; python -m cglo_jax.man",
            ["cglo_jax.man"],
        ),
        (
            missing_fields,
            "--config.latent.dim=1 --config.latent.dims=1 `latent.size` `report.md`",
            ["latent.dims", "latent.size"],
        ),
        (missing_stages, "--stage=train --stage=tain", ["tain"]),
        (missing_tests, "`docs_test` `nothing_test`", ["nothing_test"]),
    ],
)
def test_what_is_not_there_is_found(check, text, found):
    assert check(text) == found


def _protocol() -> list[list[str]]:
    """Returns the cells of each row of the tables of the protocol: point ... field, test."""
    section = _section("docs/paper.md", "## Every point of the protocol")
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    rows = [line.strip("| ").split(" | ") for line in lines]
    return [row for row in rows if row[0] != "point"]


def test_the_protocol_has_a_row_for_every_point():
    rows = _protocol()
    assert len(rows) > 50
    assert {len(row) for row in rows} == {6}
    for row in rows:
        assert all(cell.strip() for cell in row), row


def test_fields_of_the_protocol_exist_and_may_have_the_values_named():
    named = [row[4] for row in _protocol()]
    for cell in named:
        spans = _SPAN.findall(cell)
        assert cell == (", ".join(f"`{span}`" for span in spans) or "-")
        for span in spans:
            name, _, value = span.partition("=")
            field = FIELDS[name]
            assert not value or field.check.holds(value), span
    learning = {"train", "weak_classifier", "reconstruction", "latent", "mixmatch"}
    missing = {
        name
        for name, field in FIELDS.items()
        if field.section in learning
        and affects(name) in (CGLO, CLASSIFIER)
        and not any(f"`{name}" in cell for cell in named)
    }
    assert missing == set()


def test_tests_of_the_protocol_exist():
    for *_, cell in _protocol():
        spans = _SPAN.findall(cell)
        assert spans, cell
        for span in spans:
            path, _, test = span.partition(":")
            assert re.fullmatch(r"tests/[\w/]+_test\.py", path), span
            assert test.startswith("test_") and test in _defined(ROOT / path), span


@pytest.mark.parametrize(
    "link", ["docs/nothing.md", "#nothing", "README.md#nothing", "../elsewhere.md"]
)
def test_a_link_that_leads_nowhere_is_found(link):
    text = f"# A heading, `code` & more\n[a](#a-heading-code--more) [b](README.md#limits) [c]({link})"
    assert broken_links(text, ROOT) == [link]


def test_the_readme_takes_two_minutes_and_leads_to_every_page():
    text = text_of("README.md")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1000
    linked = {link.partition("#")[0] for link in _LINK.findall(text)}
    assert linked >= set(PAGES) - {"README.md"}


def _section(page: str, heading: str) -> str:
    """Returns what stands below a heading of a page, up to the next one of its level."""
    level = heading.partition(" ")[0]
    return re.split(
        rf"^{level} ", text_of(page).partition(f"\n{heading}\n")[2], flags=re.MULTILINE
    )[0]


def test_the_reference_has_every_stage_flag_and_method():
    first = re.compile(r"^\| (`.*?) \|", re.MULTILINE)
    rows = {
        heading: [
            name
            for cell in first.findall(_section("docs/reference.md", heading))
            for name in _SPAN.findall(cell)
        ]
        for heading in ("## Stages", "## Flags", "## Methods")
    }
    assert sorted(rows["## Stages"]) == sorted(["--stage=", *STAGES])
    flags = [re.match(r"--(\w+)=?", name) for name in rows["## Flags"]]
    assert {m[1] for m in flags if m} == {*FLAGS, "help"}
    assert sorted(rows["## Methods"]) == sorted(METHODS)


def test_the_reference_has_every_field_of_the_logs():
    tables = re.findall(r"(?<=meaning\n)(?:    .*\n)+", run_log.__doc__)
    documented = [re.findall(r"^    (\w+)", table, re.MULTILINE) for table in tables]
    section = _section("docs/reference.md", "## Metrics")
    written = [
        re.findall(
            r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))
        )
        for table in section.split("`timings.jsonl` has")
    ]
    assert [sorted(names) for names in written] == [
        sorted(names) for names in documented
    ]
    assert min(map(len, written)) > 5
