"""Charts and documents, as Markdown and as HTML."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from backpropagate.reports.document import Code, Heading, Picture, Table, html, markdown
from backpropagate.reports.line_chart import loss_chart

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
    assert len(picture) < 50_000 and 'text-anchor="middle">100000<' in picture


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
