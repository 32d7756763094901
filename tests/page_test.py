"""Tests of page.py: pages that load nothing and show every name as it is."""

import re

from report_workdir import NAMES, Parsed, write_html


def test_html_loads_nothing(workdir, config):
    text = write_html(workdir, config)
    parsed = Parsed(text)
    for tag, attrs in parsed.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "data", "poster"):
            assert attrs.get(name, "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attrs)
    assert "@import" not in text
    assert "url(" not in text
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}


def test_class_names_are_escaped(workdir, config):
    text = write_html(workdir, config)
    assert '<b>&"' not in text
    assert set(NAMES) <= set(Parsed(text).cells)
    rows = (workdir / "report.md").read_text().splitlines()
    assert '| 1 | &lt;b&gt;&amp;" | 8 | 90 |' in rows
    assert r"| 2 | a_b\|c | 7 | 110 |" in rows
    assert r"| 3 | \_x\_\*y\* | 8 | 100 |" in rows
