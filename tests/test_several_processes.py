"""Two real processes connected by Gloo: equal to one process, also when killed, short of memory, or fewer to go on."""

import json
import os
import signal

import pytest
import torch
from ranks import Command, Killed, Looped, ShortOfMemory, Signalled, launch, long_words, silence
from safetensors.torch import load_file
from tiny_models import save_tiny

from backpropagate import Trainer
from bp_cuda.rail import CpuRail, CudaRail
from bp_runs import read_events

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here")
SETTINGS = dict(
    backend="cpu", rank=4, batch_size=5, learning_rate=1e-2, max_length=64, dtype="float32", checkpoint_every=2,
    held_out=0.2, eval_every=2,
)  # fmt: skip
STEPS = 4


def row(n):
    answer = f"The answer to question {n} is {n * 7}, of course."
    return {"messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": answer}]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row(n)) + "\n" for n in range(12)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def one(tiny_llama, data, tmp_path_factory):
    """A run by one process."""
    output = tmp_path_factory.mktemp("one")
    Trainer(str(tiny_llama), output=str(output), **SETTINGS).train(data, steps=STEPS, watch=lambda event: None)
    return output


def words(model, data, output, *more, **changes):
    options = {**SETTINGS, "data": data, "model": model, "output": output, "steps": STEPS} | changes
    given = [str(word) for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    return ["train", *given, *more]


def events(output):
    (run,) = (output / "runs").iterdir()
    return list(read_events(run))


def losses(output):
    return [event["loss"] for event in events(output) if event["event"] == "Stepped"]


def assert_equal(one, two):
    """The same losses and adapters, but for the order in which floats were added."""
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    a, b = (load_file(output / "lora" / "adapter_model.safetensors") for output in (one, two))
    assert a.keys() == b.keys()
    # Adam divides by a gradient's size: where that is next to nothing, rounding decides. So by the whole matrix.
    away = {name: ((a[name] - b[name]).norm() / a[name].norm()).item() for name in a}
    assert max(away.values()) < 1e-4, away
    assert max(value.abs().max().item() for value in a.values()) > 1e-2


def test_two_processes_do_what_one_does_and_one_of_them_writes(tiny_llama, data, tmp_path, one):
    lines = [words(tiny_llama, data, tmp_path / name, "--json") for name in ("two", "elsewhere")]
    codes, said = launch(2, Command(lines), tmp_path / "said")
    assert codes == [0, 0], said
    assert json.loads(said[0][0])["losses"] == losses(tmp_path / "two") and "Started" in said[0][1]
    assert said[1] == ("", "") and not (tmp_path / "elsewhere").exists()
    assert_equal(one, tmp_path / "two")
    told = [[(event["event"], event["step"]) for event in events(output)] for output in (one, tmp_path / "two")]
    assert told[0].pop(2) == ("Evaluated", 0), "rows one by one before training: what one process alone measures"
    assert told[0] == told[1]
    records = [json.loads(next((output / "runs").glob("*/run.json")).read_text()) for output in (one, tmp_path / "two")]
    recipes = [record["recipe"] for record in records]
    for recipe in recipes:  # where a run lies and who is told of it decides nothing
        recipe |= {"output": "", "report_to": ""}
        recipe["why"].pop("report_to", None)
    assert recipes[0] == recipes[1] and records[0]["eval_loss"] == pytest.approx(records[1]["eval_loss"], rel=1e-5)


@pytest.mark.slow
def test_killed_with_kill_9_and_resumed(tiny_llama, data, tmp_path, one):
    settings = SETTINGS | {"output": str(tmp_path / "two")}
    codes, said = launch(2, Killed(tiny_llama, data, settings, STEPS, at=3), tmp_path / "said")
    assert codes == [-signal.SIGKILL, 2] and "RUNTIME_PEER_LOST" in said[1][1]
    lines = [words(tiny_llama, data, tmp_path / name, "--resume") for name in ("two", "elsewhere")]
    codes, said = launch(2, Command(lines), tmp_path / "said")
    assert codes == [0, 0], said
    assert_equal(one, tmp_path / "two")
    assert [event["step"] for event in events(tmp_path / "two") if event["event"] == "Started"] == [0, 2]


@pytest.mark.slow
def test_other_data_in_one_process_is_refused_before_anything_is_written(tiny_llama, data, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text().replace("Question 3", "Question three"))
    lines = [words(tiny_llama, path, tmp_path / "two") for path in (data, other)]
    codes, said = launch(2, Command(lines), tmp_path / "said")
    assert codes == [1, 1] and "process 1 and process 0 differ in: data" in said[0][1]
    assert not (tmp_path / "two" / "runs").exists()


def test_what_rank_0_refuses_all_refuse(tiny_llama, data, tmp_path):
    codes, said = launch(2, Command([words(tiny_llama, data, tmp_path, "--resume", "x")]), tmp_path / "said")
    assert codes == [1, 1] and all("INPUT_TARGET_NOT_FOUND" in text for _, text in said)


def test_a_plan_is_told_once(tiny_llama, data, tmp_path):
    codes, said = launch(2, Command([words(tiny_llama, data, tmp_path, "--dry-run", "--json")]), tmp_path / "said")
    assert codes == [0, 0] and json.loads(said[0][0])["recipe"]["steps"] == STEPS and said[1] == ("", "")


def test_a_backend_that_trains_in_one_process_is_refused(tiny_llama, data, tmp_path):
    codes, said = launch(2, Command([words(tiny_llama, data, tmp_path, backend="null")]), tmp_path / "said")
    assert codes == [2, 2] and "this backend trains in one" in said[0][1]
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def looped(tmp_path):
    save_tiny(tmp_path / "model")

    def run(name, **changes):
        return Looped(tmp_path / name, changes.pop("rail", CpuRail), changes)

    return run


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    assert max((found[name].float() - expected[name].float()).abs().max().item() for name in found) < 1e-5


@pytest.mark.parametrize("changes", [{"batch_size": 5}, {"batch_size": 1}, {"mode": "full", "learning_rate": 1e-3}])
def test_the_same_weights_whoever_computed_them(looped, tmp_path, changes):
    looped("one", **changes)()
    two = looped("two", **changes)
    codes, said = launch(2, two, tmp_path / "said")
    assert codes == [10, 10], said
    assert_close(two.weights(), looped("one").weights())


def test_memory_that_runs_out_in_one_process_changes_nothing(looped, tmp_path):
    looped("one", batch_size=5)()
    two = looped("two", rail=ShortOfMemory, batch_size=5)
    codes, said = launch(2, two, tmp_path / "said")
    assert codes == [11, 11], said
    assert_close(two.weights(), looped("one").weights())


@pytest.mark.slow
def test_a_signal_to_one_stops_both_and_one_can_go_on_alone(looped, tmp_path):
    looped("one")()
    codes, said = launch(2, looped("two", rail=Signalled), tmp_path / "said")
    assert codes == [130, 130], said
    assert looped("two").weights().keys() and (tmp_path / "two" / "checkpoints" / "step-000003").is_dir()
    looped("two")()
    assert_close(looped("two").weights(), looped("one").weights())


@pytest.mark.slow
def test_bfloat16_weights_are_rounded_alike_by_all(looped, tmp_path):
    codes, said = launch(2, looped("two", mode="full", dtype="bfloat16"), tmp_path / "said")
    assert codes == [10, 10], said


@pytest.mark.slow
def test_a_process_that_does_not_answer_is_given_up(tmp_path):
    codes, said = launch(2, silence, tmp_path / "said")
    assert codes == [4, 5], said


def test_long_words_are_told_whole(tmp_path):
    codes, said = launch(3, long_words, tmp_path / "said")
    assert codes == [7, 7, 7], said


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two cards")
def test_two_cards_do_what_one_does(tmp_path):
    save_tiny(tmp_path / "model")
    looped = Looped(tmp_path / "one", CudaRail, {"batch_size": 5})
    launch(1, looped, tmp_path / "said")  # a process that has used a card cannot be forked
    two = Looped(tmp_path / "two", CudaRail, {"batch_size": 5})
    codes, said = launch(2, two, tmp_path / "said")
    assert codes == [10, 10], said
    found, expected = two.weights(), looped.weights()
    assert max((found[name] - expected[name]).abs().max().item() for name in found) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kto", "orpo"])
def test_preferences_are_learned_by_two_as_by_one(method, tiny_llama, tmp_path):
    """KTO's reference point and ORPO's pairs are those of the whole step, whoever computes which part of it."""
    data = tmp_path / "data.jsonl"
    rows = [{"prompt": f"Question {n}?", "completion": f"Answer {n}" + "!" * (n % 3)} for n in range(12)]
    for n, row in enumerate(rows):
        row |= {"label": n % 3 == 0} if method == "kto" else {"chosen": row.pop("completion"), "rejected": "No idea."}
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    changes = {"method": method, "output": str(tmp_path / "one")}
    Trainer(str(tiny_llama), **SETTINGS | changes).train(data, steps=STEPS, watch=lambda event: None)
    lines = [words(tiny_llama, data, tmp_path / "two", method=method)]
    codes, said = launch(2, Command(lines), tmp_path / "said")
    assert codes == [0, 0], said
    assert_equal(tmp_path / "one", tmp_path / "two")
