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
    facts = (run.id, str(rows), "6 of 6 steps", "Questions held out", data, f"backprop replay {run.id}", "Next step")
    for fact in facts:
        assert fact in text.replace("\\", "") and fact in Page(page).text
    for name in ("learning\\_rate | ", "for a model 256 wide", "perplexity", "0, before training"):
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


def test_it_begins_with_a_summary_in_words(trainer, rows):
    run = trainer.train(rows, steps=6, watch=lambda event: None)
    text = (run.folder / "report.md").read_text()
    assert "A LoRA adapter (rank 16) learned from 10 rows of rows.jsonl; 2 rows were kept out to evaluate on." in text
    assert "2 rows are too few to be sure" in text


def test_questions_are_what_the_user_wrote_and_the_prompt_is_folded(trainer, rows):
    run = trainer.train(rows, steps=2, watch=lambda event: None)
    page = (run.folder / "report.html").read_text()
    asked = page.split('<p class="asked">')[1].split("</p>")[0]
    assert asked.startswith("Question ") and asked.endswith("?")
    assert "im_start" not in page.split("<details>")[0]


def test_defaults_are_folded_and_what_was_set_is_not(trainer, rows):
    run = trainer.train(rows, steps=2, watch=lambda event: None)
    text = (run.folder / "report.md").read_text()
    shown, folded = text.split("## Recipe")[1].split("settings are at their default")
    assert "held\\_out | 0.2 | as set" in shown and "max\\_grad\\_norm" not in shown
    assert "max\\_grad\\_norm | 1.0 | the default" in folded


def test_words_are_explained(trainer, rows):
    run = trainer.train(rows, steps=2, watch=lambda event: None)
    text = (run.folder / "report.md").read_text()
    assert "The words of this report" in text and "perplexity | The loss as a number" in text
