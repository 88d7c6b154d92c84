"""The report in a real browser: no request, no error, and it obeys mouse, keys and fingers."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from support import sample_results
from support.browser import PROGRAM, Browser

from n2s_dist.reporting import figures
from n2s_dist.reporting.examples import choose
from n2s_dist.reporting.page import TrainingRun, render

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium: apt-get install chromium")

SPOTS = """[...document.querySelectorAll('.frame img')].map(img => {
  const frame = img.closest('.frame').getBoundingClientRect(), box = img.getBoundingClientRect();
  return [(frame.left - box.left) / box.width, (frame.top - box.top) / box.height, frame.width / box.width];
})"""  # what part of each picture its frame shows: left, top, width


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    results = sample_results.write(folder)
    runs = folder / "run"
    runs.mkdir()
    rows = [{"samples_seen": n, "loss": 9 / n, "val_psnr_db": 25, "samples_per_sec": 3} for n in range(1, 50)]
    (runs / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (runs / "config.yaml").write_text("a_long_line: " + "x" * 300)
    path = folder / "report.html"
    text = render(results, [TrainingRun(runs, "a-run")], choose(folder, results["cells"]))
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def opened(browser, page):
    browser.open(page)
    browser.run("document.getElementById('stage').scrollIntoView({block: 'center', behavior: 'instant'})")
    return browser


def box(browser, selector) -> tuple[float, float, float, float]:
    """Left, top, width and height in the window."""
    script = "(b => [b.left, b.top, b.width, b.height])(document.querySelector({}).getBoundingClientRect())"
    return tuple(browser.run(script.format(json.dumps(selector))))


def stage(browser, path) -> np.ndarray:
    """What the stage shows, [height, width, 3]."""
    browser.screenshot(path)
    left, top, width, height = (round(value) for value in box(browser, "#stage"))
    return np.asarray(Image.open(path).convert("RGB"), np.int16)[top : top + height, left : left + width]


def share_of(picture: np.ndarray, left: np.ndarray, right: np.ndarray) -> float:
    """Which share of the picture's columns are as in `left` rather than in `right`."""
    nearer = [np.abs(picture - each).sum((0, 2)) for each in (left, right)]
    return float((nearer[0] < nearer[1]).mean())


def test_it_loads_from_disk_without_an_error_or_a_request(browser, page):
    for dark, touch in ((False, False), (True, True)):
        browser.open(page, dark=dark, touch=touch)
        assert browser.errors == []
        assert browser.requests == [page.as_uri()]
    assert browser.run("document.title") == "Noise2Score: results"
    assert browser.run("document.images.length") >= 4
    assert browser.run("[...document.images].every(img => img.naturalWidth > 0)")
    assert browser.run("[...document.querySelectorAll('.chart svg')].every(svg => svg.querySelector('line'))")


def test_the_divider_moves_what_is_shown_by_mouse_keys_and_slider(opened, tmp_path):
    left, top, width, height = box(opened, "#stage")
    middle = top + height / 2

    def drag_to(share: float) -> None:
        opened.drag((left + width / 2, middle), (left + share * width, middle))

    drag_to(0.999)
    whole_left = stage(opened, tmp_path / "left.png")
    drag_to(0.001)
    whole_right = stage(opened, tmp_path / "right.png")
    assert np.abs(whole_left - whole_right).mean() > 5  # noisy and denoised
    drag_to(0.7)
    assert share_of(stage(opened, tmp_path / "a.png"), whole_left, whole_right) == pytest.approx(0.7, abs=0.06)
    opened.run("document.getElementById('cut').focus()")
    for _ in range(40):
        opened.key("ArrowLeft")
    assert opened.run("document.getElementById('cut').value") == "50"
    assert share_of(stage(opened, tmp_path / "b.png"), whole_left, whole_right) == pytest.approx(0.5, abs=0.06)
    opened.run("document.getElementById('stage').focus()")
    for _ in range(10):
        opened.key("ArrowLeft")
    assert share_of(stage(opened, tmp_path / "c.png"), whole_left, whole_right) == pytest.approx(0.3, abs=0.06)


def same_spot(browser) -> list[float]:
    """The part of the picture that all frames show; fails where they differ."""
    spots = np.array(browser.run(SPOTS))
    assert len(spots) >= 5 and np.ptp(spots, axis=0).max() < 2e-3
    return spots[0].tolist()


def test_zoom_shows_the_same_spot_in_every_version(opened):
    assert same_spot(opened) == pytest.approx([0, 0, 1], abs=2e-3)
    opened.run("document.getElementById('in').click()")
    assert same_spot(opened) == pytest.approx([0.25, 0.25, 0.5], abs=2e-3)
    opened.run("document.getElementById('stage').focus()")
    for key in ("+", "ArrowRight", "ArrowDown"):
        opened.key(key)
    moved = same_spot(opened)
    assert moved == pytest.approx([0.375 + 1 / 32, 0.375 + 1 / 32, 0.25], abs=2e-3)
    left, top, width, height = box(opened, "#stage")
    opened.drag((left + 0.2 * width, top + 0.2 * height), (left + 0.4 * width, top + 0.3 * height))
    assert same_spot(opened) == pytest.approx([moved[0] - 0.05, moved[1] - 0.025, 0.25], abs=2e-3)
    opened.key("0")
    assert same_spot(opened) == pytest.approx([0, 0, 1], abs=2e-3)
    for _ in range(9):
        opened.run("document.getElementById('in').click()")
    assert same_spot(opened)[2] == pytest.approx(1 / 16, abs=2e-3)


def test_ctrl_and_wheel_zoom_about_the_pointer_and_the_wheel_alone_scrolls(opened):
    left, top, width, height = box(opened, "#stage")
    wheel = {"type": "mouseWheel", "x": left + width / 4, "y": top + height / 4, "deltaX": 0, "deltaY": -100}
    opened.call("Input.dispatchMouseEvent", **wheel, modifiers=2)
    opened.wait_for("view.zoom === 2")
    assert same_spot(opened) == pytest.approx([0.125, 0.125, 0.5], abs=0.01)
    scrolled = opened.run("scrollY")
    opened.call("Input.dispatchMouseEvent", **wheel)
    opened.wait_for(f"scrollY < {scrolled}")
    assert opened.run("view.zoom") == 2


def test_fingers_divide_pinch_and_move(browser, page):
    browser.open(page, 360, 740, touch=True)
    browser.run("document.getElementById('stage').scrollIntoView({block: 'center', behavior: 'instant'})")
    left, top, width, height = box(browser, "#stage")

    def at(x, y):
        return left + x * width, top + y * height

    browser.touch([at(0.5, 0.2)], [at(0.6, 0.2)], [at(0.8, 0.2)])
    assert float(browser.run("document.getElementById('cut').value")) == pytest.approx(80, abs=2)
    browser.touch([at(0.4, 0.5), at(0.6, 0.5)], [at(0.3, 0.5), at(0.7, 0.5)], [at(0.2, 0.5), at(0.8, 0.5)])
    spot = same_spot(browser)
    assert spot == pytest.approx([1 / 3, 1 / 3, 1 / 3], abs=0.02)
    browser.touch([at(0.2, 0.5)], [at(0.35, 0.5)], [at(0.5, 0.5)])
    assert same_spot(browser)[0] == pytest.approx(spot[0] - 0.1, abs=0.02)


def test_the_same_spot_means_the_same_pixels(opened, tmp_path):
    """Clean on both sides: with any zoom nothing may jump at the divider."""
    opened.run("for (const id of ['left', 'right']) { const s = document.getElementById(id); s.value = 0;"
               " s.dispatchEvent(new Event('change')); }")  # fmt: skip
    opened.run("document.querySelectorAll('.handle, .tag').forEach(each => each.hidden = true)")
    opened.run("zoomAt(2)")
    shown = []
    for cut in (0, 100):
        opened.run(f"divide({cut})")
        shown.append(stage(opened, tmp_path / f"{cut}.png"))
    inside = [each[4:-4, 4:-4] for each in shown]  # round corners are drawn differently
    assert inside[0].std() > 20 and np.abs(inside[0] - inside[1]).max() <= 2


@pytest.mark.parametrize("width", [360, 768])
def test_a_phone_scrolls_down_alone(browser, page, width):
    browser.open(page, width, 740, touch=True)
    assert browser.run("document.documentElement.scrollWidth") == browser.run("innerWidth") == width
    # Nor is anything cut off at the right, outside of what scrolls by itself.
    assert (
        browser.run("""[...document.querySelectorAll('main *')].filter(each => !each.closest('.scroll, .frame, pre')
      && each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))""")
        == []
    )
    browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run("Math.min(...[...document.querySelectorAll('main select, .tools button')]"
                       ".filter(e => e.offsetParent).map(e => e.offsetHeight))") >= 32  # a finger hits it  # fmt: skip


CONTRAST = """(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const mix = (colors) => {  // from the page up to the text's own background
    canvas.clearRect(0, 0, 1, 1);
    for (const each of colors) { canvas.fillStyle = each; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = rgb => rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility() || element.closest('script, .tag')) continue;
    const backs = [];
    for (let each = element; each; each = each.parentElement) backs.unshift(getComputedStyle(each).backgroundColor);
    const style = getComputedStyle(element), ink = element.namespaceURI.endsWith('svg') ? style.fill : style.color;
    const [a, b] = [light(mix(backs)), light(mix([...backs, ink]))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walk.currentNode.data.trim().slice(0, 30)]);
  }
  return found;
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_has_the_contrast_that_wcag_asks_for(browser, page, dark):
    browser.open(page, dark=dark)
    found = browser.run(CONTRAST)
    assert len(found) > 100
    assert [each for each in found if each[0] < 4.5] == []
    brightness = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, brightness[4:-1].split(","))) < 120) == dark


def test_every_control_has_a_name_and_the_keyboard_reaches_it(browser, page):
    browser.open(page)
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    controls = [n for n in nodes if n.get("role", {}).get("value") in ("button", "combobox", "slider", "image")
                and not n.get("ignored")]  # fmt: skip
    assert {n["role"]["value"] for n in controls} >= {"button", "combobox", "slider", "image"}
    unnamed = [n["role"]["value"] for n in controls if not re.search("[A-Za-z]{2}", n.get("name", {}).get("value", ""))]
    assert unnamed == []
    reached = set()
    for _ in range(80):
        browser.key("Tab")
        reached.add(browser.run("document.activeElement.id || document.activeElement.parentElement.id"))
    assert {"cell", "image", "before", "after", "left", "right", "in", "out", "whole", "stage", "cut", "panels",
            "against", "scatter"} <= reached  # fmt: skip


def test_the_worst_image_comes_first_and_every_cell_can_be_seen(opened):
    results = opened.run("data.cells.map(cell => cell.title)")
    for number, title in enumerate(results):
        opened.run(f"chooseCell({number})")
        rows = opened.run("[...$('rows').tBodies[0].rows].map(row => [...row.cells].map(each => each.innerText))")
        images = opened.run(f"data.cells[{number}].images")
        if images[0]["figures"]["psnr_db"] is None:
            assert [row[0] for row in rows] == [image["name"] for image in images]
            continue
        expected = sorted(images, key=lambda image: image["figures"]["psnr_db"])
        shown = [
            [i["name"], f"{i['figures']['psnr_noisy_db']:.2f}", f"{i['figures']['psnr_db']:.2f}"] for i in expected
        ]
        assert [row[:3] for row in rows] == shown, title
        opened.run("$('against').value = 1, drawScatter()")  # SSIM, that every image has
        assert opened.run("document.querySelectorAll('#scatter .dot').length") == len(images)
        exhibits = opened.run(f"data.cells[{number}].exhibits.length")
        assert opened.run("document.getElementById('comparer').hidden") == (exhibits == 0)
    assert opened.errors == []


def test_the_scatter_names_points_under_the_pointer_and_by_keys(opened):
    opened.run("$('against').value = 1, drawScatter()")
    opened.run("document.getElementById('scatter').scrollIntoView({block: 'center', behavior: 'instant'})")
    names = opened.run("[...document.querySelectorAll('#scatter .dot')].map(dot => dot.dataset.name)")
    assert sample_results.ENDING in names
    for name in names[-1], names[0]:
        x, y, width, height = box(opened, f"#scatter .dot[data-name={json.dumps(name)}]")
        opened.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + width / 2, y=y + height / 2)
        opened.wait_for(f"document.getElementById('tip').textContent.startsWith({name!r})")
    opened.run("document.querySelector('#scatter svg').focus()")
    opened.key("ArrowRight")
    assert opened.run("document.getElementById('tip').textContent").startswith(names[1])


def test_the_tables_columns_sort(opened):
    def column(place):
        return opened.run(f"[...document.querySelectorAll('#rows tbody tr')].map(r => r.cells[{place}].innerText)")

    def press(place):
        opened.run(f"document.querySelectorAll('#rows thead button')[{place}].click()")
        return opened.run(f"document.querySelectorAll('#rows thead th')[{place}].ariaSort")

    assert press(2) == "descending" and column(2) == sorted(column(2), reverse=True)
    assert press(0) == "ascending" and column(0) == sorted(column(0))


def test_a_metric_from_elsewhere_has_its_own_column_and_axis(opened):
    heads = opened.run("[...document.querySelectorAll('#rows thead button')].map(each => each.innerText)")
    assert heads == ["image", "noisy", "denoised", "SSIM", "MAE (levels)"]
    opened.run("document.querySelectorAll('#rows thead button')[4].click()")
    shown = opened.run("[...document.querySelectorAll('#rows tbody tr')].map(row => row.cells[4].innerText)")
    values = opened.run("cell.images.map(image => image.figures.mae)")
    assert shown == [f"{value:.3f}" for value in sorted(values, reverse=True)]  # the worst first, where less is better
    axes = opened.run("[...$('against').options].map(each => each.text)")
    assert axes[:3] == ["noisy PSNR (dB)", "SSIM", "MAE (levels)"]
    assert "MAE (levels) " in opened.run("document.getElementById('tip').textContent")
    assert opened.errors == []


def test_the_page_is_drawn_anew_at_another_width(browser, page):
    browser.open(page)
    wide = browser.run("document.querySelector('#scatter svg').viewBox.baseVal.width")
    browser.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=False)
    browser.wait_for(f"document.querySelector('#scatter svg').viewBox.baseVal.width < {wide}")
    assert browser.run("document.documentElement.scrollWidth") == 360


def test_the_curves_of_the_page_are_those_of_the_figures(browser, page):
    browser.open(page)
    titles = browser.run("[...document.querySelectorAll('#curves h3')].map(each => each.textContent)")
    assert titles == [panel.title for panel in figures.CURVES]
    points = browser.run("document.querySelector('#curves polyline').points.length")
    assert points == 49
