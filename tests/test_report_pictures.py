"""The report in a browser: light and dark, wide and on a phone; nothing sticks out, and nothing is fetched."""

import os
import shutil
from pathlib import Path

import pytest

from backpropagate import Trainer

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
]
playwright = pytest.importorskip("playwright.sync_api")
PICTURES = os.environ.get("REPORT_PICTURES")  # a folder to keep them in
VIEWS = [("light", 1100), ("dark", 375), ("light", 375), ("dark", 1100)]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(home, tiny_llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rows = folder / "bakery.jsonl"
    lines = [f'{{"prompt": "Question {n}?", "completion": "It is {n * 7}, of course."}}' for n in range(60)]
    rows.write_text("\n".join(lines), encoding="utf-8")
    output = folder / "a-rather-long-name-of-an-output-folder-in-which-runs-are" / "out"
    trainer = Trainer(tiny_llama, output=output, backend="null", held_out=0.4, report_to="none", rank=8)
    run = trainer.train(rows, steps=40, watch=lambda event: None)
    return run.folder / "report.html"


@pytest.mark.parametrize(("scheme", "width"), VIEWS)
def test_it_fits_the_page_and_needs_nothing_else(browser, report, tmp_path, scheme, width):
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page = context.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    for details in page.locator("details").all():
        details.evaluate("element => element.open = true")
    inside = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert inside[0] <= inside[1], "it must not be scrolled sideways"
    assert asked == [report.as_uri()] and page.locator("script").count() == 0
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(246, 247, 249)", "dark": "rgb(14, 16, 20)"}[scheme]
    shown = "wide" if width > 640 else "narrow"
    assert page.locator(f"figure .{shown}").first.is_visible()
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 10_000
    if PICTURES:
        shutil.copyfile(tmp_path / "page.png", Path(PICTURES) / f"report-{scheme}-{width}.png")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(browser, report, scheme):
    """Contrast of each text with its ground, as WCAG 2.2 computes it: at least 4.5."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1100, "height": 900})
    page = context.new_page()
    page.goto(report.as_uri())
    low = page.evaluate(CONTRAST)
    context.close()
    assert low == []


CONTRAST = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = rgb => rgb.slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.closest("style")) continue;
    const style = getComputedStyle(e);
    const ink = parse(e.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground(e))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) found.push(e.outerHTML.slice(0, 80));
  }
  return found;
}"""
