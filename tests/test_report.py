"""The report of a run: all a person asks the morning after, as Markdown and as one HTML page."""

import json
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from backpropagate import Trainer
from bp_core.errors import Diverged
from bp_core.events import Stepped


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


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
