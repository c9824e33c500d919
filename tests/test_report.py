"""The report of a run: all a person asks the morning after, as Markdown and as one HTML page."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backpropagate import Trainer
from backpropagate.reports.document import Code, Heading, Picture, Table, html, markdown
from backpropagate.reports.line_chart import loss_chart
from bp_core.errors import Diverged
from bp_core.events import Stepped

LOSSES = st.lists(st.floats(0, 1e4), max_size=60)


@given(LOSSES, LOSSES)
def test_a_chart_is_a_picture_whatever_the_losses(train, evaluation):
    points = list(enumerate(train, 1)), list(enumerate(evaluation, 1))
    picture = ElementTree.fromstring(loss_chart(*points))
    _, _, width, height = map(float, picture.get("viewBox").split())
    lines = picture.findall("{*}polyline")
    for place in " ".join(line.get("points") for line in lines).split():
        x, y = map(float, place.split(","))
        assert 0 <= x <= width and 0 <= y <= height
    assert len(lines) == (3 if evaluation else 2)
    assert len(picture.findall("{*}circle")) == len(evaluation)


def test_a_long_curve_stays_a_small_picture():
    picture = loss_chart([(step, 2.0 / step) for step in range(1, 200_001)], [])
    assert len(picture) < 50_000 and 'text-anchor="middle" fill="#333333">100000<' in picture


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


@given(st.text(max_size=60))
def test_text_stays_text_in_both_forms(text):
    blocks = [Heading(text, 1), text, Table(("a", "b"), [(text, "x")]), Code("label", text)]
    page = Page(html(blocks))
    assert {"script", "a", "img", "b"}.isdisjoint(page.tags)
    assert page.tags.count("td") == 2
    for line in markdown(blocks[:3]).splitlines():  # the code block holds the text as it is
        if line.startswith("| ") and "---" not in line:
            assert len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) == 3


def test_a_fence_is_longer_than_any_in_the_text():
    assert markdown([Code("x", "```\n````")]).count("`````") == 2


def test_a_picture_lies_beside_the_markdown_and_inside_the_page():
    blocks = [Picture("loss.svg", "Loss", "<svg></svg>")]
    assert "![Loss](loss.svg)" in markdown(blocks) and "<svg></svg>" in html(blocks)


@pytest.fixture
def trainer(tiny_llama, tmp_path):
    return Trainer(str(tiny_llama), output=str(tmp_path / "out"), backend="null", report_to="none", held_out=0.2)


def test_a_report_tells_what_was_trained_on_what_and_what_came_of_it(trainer, rows):
    run = trainer.train(rows, steps=6, watch=lambda event: None)
    text, page = ((run.folder / name).read_text() for name in ("report.md", "report.html"))
    lock = json.loads((run.folder / "run.lock").read_text())
    data = lock["hashes"]["data"]
    for fact in (run.id, str(rows), "6 of 6", "held out", "Question", data, f"backprop replay {run.id}"):
        assert fact in text.replace("\\", "") and fact in Page(page).text
    for name in ("learning\\_rate | ", "for a model 256 wide", "perplexity"):
        assert name in text
    ElementTree.parse(run.folder / "loss.svg")
    assert "<svg" in page and "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_a_run_that_failed_says_why(trainer, rows, tmp_path):
    def fail(event):
        if isinstance(event, Stepped) and event.step == 2:
            raise Diverged("the loss is nan.")

    with pytest.raises(Diverged) as caught:
        trainer.train(rows, steps=5, watch=fail)
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    assert caught.value.run == folder.name and caught.value.as_dict()["run"] == folder.name
    text = (folder / "report.md").read_text()
    assert "failed (RUNTIME\\_DIVERGED: the loss is nan.)" in text and "2 of 5" in text
    last = json.loads((folder / "events.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "Failed" and last["run"] == folder.name and last["code"] == "RUNTIME_DIVERGED"
