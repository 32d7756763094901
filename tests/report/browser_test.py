"""Tests of report.html in headless Chromium: what a reader sees and can do, one browser for all."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from cglo_jax.report.write import write_report
from tests.helpers.browser import CHROMIUM, Browser
from tests.helpers.report_workdir import (
    make_config,
    make_result,
    put_result,
    put_workdir,
)

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs chromium")

WIDTHS = (360, 1440)
LONG = [f"{k}: a long name_of_a_class, with_words" for k in range(20)]
MANY = [f"Black_footed_Albatross_{k}" for k in range(30)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """report.html of a usual run, of 20 classes with long names and of many, by name."""
    root = tmp_path_factory.mktemp("pages")
    config = make_config()
    put_workdir(root / "usual", config)
    for name, names in (("long", LONG), ("many", MANY)):
        n = len(names)
        for method, right in (("baseline", 12), ("cglo", 15)):
            for seed in (0, 1):
                rows = [[[k, k, right], [k, (k + 1) % n, 20 - right]] for k in range(n)]
                result = make_result(config, method, seed, 5 * right, n_test=20 * n)
                result["confusion"] = [row for pair in rows for row in sorted(pair)]
                counts = {"class_names": names, "num_classes": n}
                counts |= {"train_counts": [5] * n, "test_counts": [20] * n}
                result["dataset"] |= counts
                put_result(root / name, result)
    for name in ("usual", "long", "many"):
        write_report(config, root / name)
    return {path.parent.name: path for path in root.glob("*/report.html")}


def open_all(browser):
    """Shows what is folded, too."""
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["usual", "long", "many"])
def test_nothing_is_wider_than_the_window(browser, pages, name, width):
    browser.open(pages[name], width)
    open_all(browser)
    size = (
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert browser.evaluate(size) == [width, width]


def test_nothing_is_requested_and_nothing_is_logged(browser, pages):
    browser.open(pages["usual"], 1440)
    browser.evaluate("0")
    requested = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert [url for url in requested if not url.startswith("data:")] == [
        pages["usual"].as_uri()
    ]
    logged = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    assert not [e for e in browser.events if e.get("method") in logged]


def test_a_blocked_request_would_be_noticed(browser, pages, tmp_path):
    """So that the test above can fail."""
    text = pages["usual"].read_text().replace("<body>", "<body><script>1</script>")
    (tmp_path / "bad.html").write_text(text)
    browser.open(tmp_path / "bad.html", 360)
    browser.evaluate("0")
    entries = [e for e in browser.events if e.get("method") == "Log.entryAdded"]
    assert "Content Security Policy" in json.dumps(entries)


# The contrast of every text with what is behind it, as computed by the browser
CONTRASTS = """
(() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => .2126 * linear(c[0]) + .7152 * linear(c[1]) + .0722 * linear(c[2]);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let worst = [99, ''], n = 0;
  while (texts.nextNode()) {
    const node = texts.currentNode, parent = node.parentElement;
    if (!node.data.trim() || !parent.checkVisibility() || parent.closest('style')) continue;
    let behind = parent, ground;
    do {
      ground = parse(getComputedStyle(behind).backgroundColor);
      behind = behind.parentElement;
    } while (ground[3] === 0);
    const style = getComputedStyle(parent);
    const ink = parse(parent.closest('svg') ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground)].sort((x, y) => x - y);
    const contrast = (b + .05) / (a + .05);
    if (contrast < worst[0]) worst = [contrast, node.data];
    n++;
  }
  return [...worst, n, getComputedStyle(document.body).backgroundColor];
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_both_schemes(browser, pages, scheme):
    browser.prefer(scheme)
    browser.open(pages["usual"], 1440)
    open_all(browser)
    contrast, text, n, ground = browser.evaluate(CONTRASTS)
    browser.prefer("light")
    assert n > 300
    assert contrast >= 4.5, text
    brightness = sum(map(int, ground[4:-1].split(", "))) / 3
    assert brightness < 40 if scheme == "dark" else brightness > 240


FOCUSED = "document.activeElement.id || document.activeElement.tagName"
SHOWN = """
[...document.querySelectorAll('.tile')].map(t => getComputedStyle(t).backgroundPosition)
"""


def test_the_slider_is_reached_and_moved_by_keyboard(browser, pages):
    browser.open(pages["usual"], 1440)
    assert browser.evaluate("document.querySelector('.tile').offsetWidth") == 9
    assert browser.evaluate(SHOWN) == ["50% 0%", "50% 100%"]  # t = 0.5
    for _ in range(100):
        browser.press("Tab", 9)
        if browser.evaluate(FOCUSED).startswith("walk"):
            break
    assert browser.evaluate(FOCUSED) == "walk-1"
    seen = "getComputedStyle(document.activeElement).outlineWidth"
    assert browser.evaluate(seen) == "3px"
    browser.press("ArrowRight", 39)
    assert browser.evaluate(FOCUSED) == "walk-2"
    assert browser.evaluate(SHOWN) == ["100% 0%", "100% 100%"]
    for _ in range(2):
        browser.press("ArrowLeft", 37)
    assert browser.evaluate(SHOWN) == ["0% 0%", "0% 100%"]


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_tile_shows_the_image_of_its_class_and_t(browser, pages, stop):
    browser.open(pages["usual"], 1440)
    browser.evaluate(f"document.getElementById('walk-{stop}').click()")
    places = browser.evaluate("""
      document.querySelector('.tile').scrollIntoView({block: 'center'});
      [...document.querySelectorAll('.tile')].map(t => {
        const r = t.getBoundingClientRect();
        return [r.x + r.width / 2, r.y + r.height / 2];
      })
    """)
    with Image.open(io.BytesIO(browser.screenshot())) as picture:
        pixels = np.asarray(picture.convert("L"))
    seen = [int(pixels[int(y), int(x)]) for x, y in places]
    assert seen == [50 * stop, 150 + 50 * stop]  # see report_workdir.put_samples


def test_the_first_tab_skips_to_the_sections(browser, pages):
    browser.open(pages["usual"], 1440)
    browser.press("Tab", 9)
    assert browser.evaluate("document.activeElement.className") == "skip"
    top = "document.activeElement.getBoundingClientRect().top"
    assert browser.evaluate(top) >= 0  # and it is seen
    browser.press("Enter", 13)
    browser.evaluate("0")
    assert browser.evaluate("location.hash") == "#content"


def test_the_contents_lead_to_their_sections(browser, pages):
    browser.open(pages["usual"], 360)
    links = "[...document.querySelectorAll('nav a')]"
    titles = browser.evaluate(f"{links}.map(a => a.textContent)")
    targets = f"{links}.map(a => document.querySelector(a.hash + ' h2').textContent)"
    assert browser.evaluate(targets) == titles
    assert len(titles) == 10


def test_the_verdict_comes_first_and_is_the_largest(browser, pages):
    browser.open(pages["usual"], 360)
    sizes = browser.evaluate("""
      [...document.querySelectorAll('.verdict.first strong, h1, h2, h3, p, td')].map(
        e => [parseFloat(getComputedStyle(e).fontSize), e.textContent])
    """)
    assert max(sizes)[1] == "cglo helped."
    place = "document.querySelector('.verdict').getBoundingClientRect().bottom"
    assert browser.evaluate(place) < 400


def test_charts_and_heat_maps_are_tables_to_a_screen_reader(browser, pages):
    browser.open(pages["usual"], 360)
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]

    def named(role):
        return [
            n["name"]["value"]
            for n in nodes
            if n.get("role", {}).get("value") == role and n.get("name", {}).get("value")
        ]

    assert "Top-1 accuracy, method minus baseline" in named("table")
    assert "baseline, summed over 3 seeds" in named("table")
    assert "cglo" in named("rowheader")
    assert "Position t" in named("group")
    assert named("radio") == ["t = 0", "t = 0.5", "t = 1"]
    assert "Image of plain at the chosen t" in named("image")
