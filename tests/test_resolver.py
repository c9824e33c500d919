"""A run's id, or the beginning of it, means the same to every command, from any folder."""

import collections
import contextlib
import json
import os
import sys

import pytest
from test_ollama_commands import serve

from backpropagate import Trainer
from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from backpropagate.models.targets import Artifact
from bp_core.errors import AdapterUnusable, FileMissing, RunNotFound, TargetNotFound

SETTINGS = dict(rank=4, batch_size=4, max_length=64, dtype="float32", report_to="none")
COMPUTING = ["--backend", "cpu", "--dtype", "float32"]


def quiet(event):
    return None


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A folder and a home of this module's own; the embedded model was unpacked in the shared home before."""
    place = tmp_path_factory.mktemp("resolver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKPROPAGATE_HOME", str(place / "home"))
        yield place


@pytest.fixture(scope="module")
def data(place):
    turns = [
        [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": f"It is {n * 7}."}]
        for n in range(12)
    ]
    path = place / "rows.jsonl"
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns), encoding="utf-8")
    return path


_opened = []


@contextlib.contextmanager
def opened_files():
    """The names of the .json files that are opened meanwhile."""
    _opened.append([])
    try:
        yield _opened[-1]
    finally:
        _opened.pop()


def _note_opened(event, arguments):
    if event == "open" and _opened and str(arguments[0]).endswith(".json"):
        _opened[-1].append(str(arguments[0]))


sys.addaudithook(_note_opened)


@pytest.fixture(scope="module")
def reads():
    """How often the export of `run` opened which .json file."""
    return collections.Counter()


@pytest.fixture(scope="module")
def run(place, data, tiny_llama, reads):
    """Two rows held out, and the adapter exported."""
    trainer = Trainer(str(tiny_llama), output=str(place / "out"), backend="cpu", held_out=0.2, **SETTINGS)
    result = trainer.train(data, steps=2, watch=quiet)
    with opened_files() as opened:
        trainer.export("gguf", quantization="f16", notify=quiet)
    reads.update(os.path.relpath(path, place) for path in opened)
    trainer.close()
    return result


@pytest.fixture(scope="module")
def stage(place, data, tiny_llama):
    """The id of the only stage's run of a multi-run session."""
    trainer = Trainer(str(tiny_llama), output=str(place / "session"), backend="cpu", **SETTINGS)
    trainer.multi_run([data], steps_per_run=1, watch=quiet)
    return next((place / "session").glob("multi-run/stage-*/runs/*")).name


@pytest.fixture
def backprop(capsys, tmp_path, monkeypatch):
    """Run the command line in a folder that no run knows: exit code, stdout, and stderr."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def backprop(*words):
        code = exit_code_of(app, [str(word) for word in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return backprop


# By command: the words, NAME for the run's, and what is in the output.
COMMANDS = {
    "chat": (["chat", "NAME", "--prompt", "Question 3?", "--max-tokens", 4], "\n"),
    "export": (["export", "NAME", "--format", "lora", "--output", "copy"], "copy"),
    "push": (["push", "NAME", "--repo", "me/bakery", "--gguf", "--dry-run"], "tiny-llama-f16.gguf"),
    "show-run": (["show-run", "NAME"], "recipe rank"),
    "eval": (["eval", "NAME", "--answers", 0, *COMPUTING, "--json"], '"rows": 2'),
    "compare": (["compare", "NAME", "--prompt", "Question 3?", "--max-tokens", 2, *COMPUTING], "tuned"),
    "verify": (["verify", "NAME", "--json"], '"compared_with": "model"'),
    "replay": (["replay", "NAME", "--set", "output=again", "--json"], '"published_step": 2'),
}
LONG = ("verify", "replay")
CASES = [
    pytest.param(command, short, marks=pytest.mark.slow if command in LONG and not short else ())
    for command in COMMANDS
    for short in (False, True)
]


@pytest.mark.parametrize(("command", "short"), CASES)
def test_a_runs_id_or_its_beginning_is_enough_from_another_folder(command, short, run, backprop):
    words, expected = COMMANDS[command]
    name = run.id[:-1] if short else run.id
    code, out, err = backprop(*(name if word == "NAME" else word for word in words))
    assert code == 0 and expected in out, err


def test_a_run_is_served_from_another_folder(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert serve(run.id[:-1])["path"] == str(run.folder.parents[1] / "tiny-llama-f16.gguf")


def test_a_session_goes_on_from_another_folder_by_the_run_of_a_stage(stage, run, backprop):
    for name in (stage, stage[:-1]):
        code, _, err = backprop("multi-run", "--resume", name, "--json")
        assert code == 0, err
    code, _, err = backprop("multi-run", "--resume", run.id)
    assert code == 2 and "there is no session" in err


def test_every_name_of_a_run_stands_for_the_same(run, place, monkeypatch):
    monkeypatch.chdir(place)
    names = [run.id, run.id[:-1], run.folder, "out", "out/lora", "out/tiny-llama-f16.gguf"]
    found = [Artifact.find(name) for name in names]
    assert {one.run for one in found} == {found[0].run} and found[0].run.id == run.id
    assert {one.folder for one in found[:-1]} == {run.adapter}
    gguf = run.folder.parents[1] / "tiny-llama-f16.gguf"
    assert {one.require_gguf().resolve() for one in found} == {gguf}
    assert [one.gguf is not None for one in found] == [True, True, True, False, False, True]
    monkeypatch.chdir(run.folder.parent)
    (run.folder.parent / run.id[:-1]).mkdir()
    assert Artifact.find(run.id[:-1]).place == run.folder.parent / run.id[:-1], "a path comes first"
    (run.folder.parent / run.id[:-1]).rmdir()


def test_a_name_that_is_nothing_or_several_says_so_with_the_near_one(run, stage, place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(TargetNotFound, match=rf"{run.id}.*{stage}"):
        Artifact.find("20")
    for wrong, near in {"outt": "out", "smollm-135m": "smollm2-135m", f"{run.id[:-1]}x": run.id}.items():
        with pytest.raises(TargetNotFound, match=f"there is no .*did you mean '{near}'"):
            Artifact.find(wrong)
    with pytest.raises(TargetNotFound, match="folder or run 'out/loraa'; did you mean 'out/lora'"):
        Artifact.find("out/loraa").require_folder()  # which might be a model of the hub
    with pytest.raises(TargetNotFound, match=r"folder or run 'smollm2-135m'\.") as raised:
        Artifact.find("smollm2-135m").require_gguf()
    assert "such as smollm2-135m" not in raised.value.fix, "which is what was typed"
    with pytest.raises(TargetNotFound):
        Artifact.find("")
    (place / "empty").mkdir(exist_ok=True)
    nothing = Artifact.find("empty")
    for error, required in ((AdapterUnusable, "folder"), (RunNotFound, "run"), (FileMissing, "gguf")):
        with pytest.raises(error):
            getattr(nothing, f"require_{required}")()


def test_an_export_reads_the_small_files_of_a_run_once(run, place, reads):
    """But for what the merging, the rail and the proof read of the adapter's settings themselves."""
    assert reads["out/lora/run.json"] == 2, "the second is its hash, against the manifest"
    assert reads["out/model/run.json"] == 0
    with opened_files() as opened:
        source = Artifact.find(place / "out/lora")
        source.job(quiet, "float32")
        assert source.base and source.contract and source.settings and source.exports and not source.session
    small = [os.path.relpath(path, place) for path in opened if str(place) in path]
    expected = [f"out/lora/{name}" for name in ("run.json", "adapter_config.json", "contract.json")]
    assert sorted(small) == sorted([*expected, f"out/runs/{run.id}/run.json"])


def test_a_run_that_was_extended_is_more_than_its_old_export(run, backprop):
    """Goes last: it changes the run."""
    name = run.id[:-1]
    code, out, err = backprop("resume", name, "--steps", 3, "--json")
    assert code == 0 and json.loads(out)["id"] == run.id and json.loads(out)["published_step"] == 3, err
    assert Artifact.find(name).gguf is None
    code, _, err = backprop("serve", name)
    assert code == 1 and "--overwrite" in err
    code, _, err = backprop("resume", run.id, "--output", "here", "--steps", 4)
    assert code == 2 and "STATE_NOTHING_TO_RESUME" in err and f"resume {run.id} --output" in err
