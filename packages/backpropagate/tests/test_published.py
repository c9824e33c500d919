"""What was trained gets its place, or an error says where it lies."""

import json
import os
from contextlib import contextmanager

import pytest

from backpropagate.models import published
from backpropagate.models.published import publish, publish_merged
from bp_core.contract import Contract
from bp_core.errors import OutputUnusable
from bp_core.folders import damage, new_folder
from bp_core.null_rail import NullRail
from bp_runs import run_folder

CONTRACT = Contract("", "none", (2,), ("</s>",))


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def run(tmp_path):
    run = run_folder.create(tmp_path / "out", recipe={}, facts={})
    run.checkpoints.mkdir()
    return run


def refusing(monkeypatch, error):
    """Renaming to the published place fails so, every time."""
    tries = []

    def move(source, target):
        tries.append(target)
        if isinstance(error, Exception):
            raise error
        return error

    monkeypatch.setattr(published, "move_if_free", move)
    return tries


def test_a_place_that_cannot_be_written_is_tried_once_and_the_error_says_where_the_adapter_lies(base, run, monkeypatch):
    tries = refusing(monkeypatch, OutputUnusable("cannot write here (Permission denied).", where="out/lora"))
    with pytest.raises(OutputUnusable) as caught:
        publish(NullRail(), run, base, CONTRACT, 3)
    ready = run.path / "lora.ready"
    assert len(tries) == 1 and damage(ready) is None
    assert f"lies whole in {ready}" in caught.value.message and f"resume {run.id}" in caught.value.fix


def test_a_place_that_is_always_taken_is_tried_a_bounded_number_of_times(base, run, monkeypatch):
    tries = refusing(monkeypatch, False)
    with pytest.raises(OutputUnusable, match="other runs keep"):
        publish(NullRail(), run, base, CONTRACT, 3)
    assert len(tries) == 20


def test_what_waits_for_its_place_is_not_written_again(base, run, monkeypatch):
    with monkeypatch.context() as patch:
        refusing(patch, OutputUnusable("no."))
        with pytest.raises(OutputUnusable):
            publish(NullRail(), run, base, CONTRACT, 3)
    written = (run.path / "lora.ready" / "manifest.json").stat().st_ino
    target = publish(NullRail(), run, base, CONTRACT, 3)
    assert (target / "manifest.json").stat().st_ino == written and not (run.path / "lora.ready").exists()


def test_an_output_folder_that_was_taken_away_is_no_success(base, run, monkeypatch, tmp_path):
    original = published.new_folder

    def taken(target):
        with original(target) as draft:
            yield draft
        (tmp_path / "out").rename(tmp_path / "away")

    monkeypatch.setattr(published, "new_folder", contextmanager(taken))
    with pytest.raises(OutputUnusable):
        publish(NullRail(), run, base, CONTRACT, 3)
    assert damage(tmp_path / "away" / "runs" / run.id / "lora.ready") is None


@pytest.mark.skipif(os.name == "nt", reason="modes are of POSIX")
def test_others_may_read_what_is_published(base, run):
    target = publish(NullRail(), run, base, CONTRACT, 3)
    assert {path.stat().st_mode & 0o044 for path in target.iterdir()} == {0o044}


def test_a_merged_adapter_that_finds_no_place_says_where_it_lies_and_the_old_one_stays(tmp_path, monkeypatch):
    output = tmp_path / "out"
    merged = output / "multi-run" / "state"
    with new_folder(merged) as draft:
        (draft / published.WEIGHTS).write_bytes(b"new")
    with new_folder(output / "lora") as draft:
        (draft / published.WEIGHTS).write_bytes(b"old")
        (draft / "run.json").write_text(json.dumps({"run": "r", "multi-run": {}}))
    with monkeypatch.context() as patch:
        refusing(patch, OutputUnusable("cannot write here."))
        with pytest.raises(OutputUnusable, match="lies whole in") as caught:
            publish_merged(merged, output)
    assert "multi-run --resume" in caught.value.fix
    assert (output / "lora" / published.WEIGHTS).read_bytes() == b"old"
    publish_merged(merged, output)
    assert (output / "lora" / published.WEIGHTS).read_bytes() == b"new"


def test_what_is_published_has_the_template_and_the_end_of_a_turn_of_training(base, run):
    settings = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (base / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}"
    target = publish(NullRail(), run, base, Contract(template, "none", (9,), ("<|im_end|>",)), 3)
    assert (target / "chat_template.jinja").read_text(encoding="utf-8") == template
    written = json.loads((target / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert written == settings | {"eos_token": "<|im_end|>"}
    assert json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8")) == settings
