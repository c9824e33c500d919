"""Two real processes that hold a model together: what one process would learn, with half of the weights in each."""

import json
import os
import signal

import pytest
import torch
from ranks import Command, Held, Killed, Looped, launch
from safetensors.torch import load_file
from tiny_models import save_tiny

from backpropagate import Trainer
from bp_core.config import TrainConfig
from bp_core.errors import BadValue
from bp_cuda.rail import CpuRail, CudaRail
from bp_plan.defaults import for_machine
from bp_plan.rows import DeviceInfo
from bp_runs import read_events

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here")
WHOLE = {"mode": "full", "learning_rate": 1e-3}
SETTINGS = dict(
    backend="cpu", batch_size=5, max_length=64, dtype="float32", checkpoint_every=2, held_out=0.2, eval_every=2
)
STEPS = 4
HOST = DeviceInfo("cpu", None, "auto")


def silent(event):
    return None


@pytest.fixture
def looped(tmp_path):
    save_tiny(tmp_path / "model")
    return lambda name, **changes: Looped(tmp_path / name, changes.pop("rail", CpuRail), changes)


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    assert max((found[name].float() - expected[name].float()).abs().max().item() for name in found) < 1e-5


SLOW = {"marks": pytest.mark.slow}


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        pytest.param(WHOLE, "shard", id="full"),
        pytest.param({}, "shard", id="lora", **SLOW),
        pytest.param(WHOLE, "full_ft_offload", id="offload", **SLOW),
        pytest.param({"activation_checkpointing": True, "dora": True}, "shard", id="dora", **SLOW),
    ],
)
def test_the_same_weights_as_one_process_comes_to(changes, how, looped, tmp_path):
    """Steps of five rows: one process has a row more than the other."""
    looped("one", batch_size=5, **changes)()
    two = looped("two", batch_size=5, **changes | {how: True})
    codes, said = launch(2, two, tmp_path / "said")
    assert codes == [10, 10], said
    assert_close(two.weights(), looped("one").weights())


@pytest.mark.parametrize(
    ("settings", "why"),
    [(dict(mode="qlora"), "another form"), (dict(fp8=True), "multiplies its own way"),
     (dict(mode="full", optimizer="adamw-8bit"), "optimizer must be adamw")],
)  # fmt: skip
def test_what_cannot_be_shared_out_is_refused(settings, why):
    with pytest.raises(BadValue, match=why):
        TrainConfig(shard=True, **settings)


def test_one_process_cannot_share_and_accelerates_launcher_can_ask(tiny_llama, rows, tmp_path, monkeypatch):
    with pytest.raises(BadValue, match="one by itself") as caught:
        Trainer(str(tiny_llama), shard=True, output=str(tmp_path), backend="cpu").train(rows, watch=silent)
    assert "torchrun" in caught.value.fix
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert not for_machine(TrainConfig(), HOST).config.shard
    monkeypatch.setenv("WORLD_SIZE", "2")
    asked = for_machine(TrainConfig(), HOST)
    assert asked.config.shard and asked.why["shard"] == "accelerate was launched with --use_fsdp"
    assert not for_machine(TrainConfig(shard=False), HOST).config.shard


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, WHOLE])
def test_each_process_holds_half(changes, looped, tmp_path):
    looped("any")
    Held(tmp_path, changes)()
    whole = json.loads((tmp_path / "held-0.json").read_text())
    codes, said = launch(2, Held(tmp_path, changes | {"shard": True}), tmp_path / "said")
    assert codes == [0, 0], said
    for rank in (0, 1):
        weights, moments = json.loads((tmp_path / f"held-{rank}.json").read_text())
        assert weights < (0.52 if changes else 0.6) * whole[0]  # an adapter is whole in each
        assert moments < 0.52 * whole[1] if changes else moments == whole[1]


def told(output):
    """Losses, without those of single rows before training, which one process alone measures."""
    (run,) = (output / "runs").iterdir()
    events = list(read_events(run))
    of_steps = [event for event in events if event["step"] > 0]
    return [[event["loss"] for event in of_steps if event["event"] == kind] for kind in ("Stepped", "Evaluated")]


def published(output, full):
    return load_file(output / ("model/model.safetensors" if full else "lora/adapter_model.safetensors"))


def words(model, data, output, *more, **changes):
    options = {**SETTINGS, "data": data, "model": model, "output": output, "steps": STEPS} | changes
    given = [str(word) for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    return ["train", *given, *more]


def assert_equal(one, two, full):
    """Held-out losses too; the weights but for the order in which floats were added."""
    for expected, found in zip(told(one), told(two), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    a, b = (published(output, full) for output in (one, two))
    # Adam divides by a gradient's size: where that is next to nothing, rounding decides. So by the whole matrix.
    away = {name: ((a[name] - b[name]).norm() / a[name].norm()).item() for name in a}
    assert a.keys() == b.keys() and max(away.values()) < 1e-4, away


@pytest.mark.slow
@pytest.mark.parametrize("changes", [dict(learning_rate=1e-2), WHOLE, dict(method="kto", learning_rate=1e-2)])
def test_a_run_from_the_command_line_is_that_of_one_process(changes, tiny_llama, rows, tmp_path):
    full = changes.get("mode") == "full"
    if changes.get("method") == "kto":
        rated = [{"prompt": f"Question {n}?", "completion": f"Answer {n}" + "!" * (n % 3), "label": n % 3 == 0}
                 for n in range(12)]  # fmt: skip
        rows.write_text("".join(json.dumps(row) + "\n" for row in rated), encoding="utf-8")
    Trainer(str(tiny_llama), output=str(tmp_path / "one"), **SETTINGS | changes).train(rows, steps=STEPS, watch=silent)
    lines = [words(tiny_llama, rows, tmp_path / "two", "--shard", **changes)]
    codes, said = launch(2, Command(lines), tmp_path / "said")
    assert codes == [0, 0], said
    assert_equal(tmp_path / "one", tmp_path / "two", full)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [dict(learning_rate=1e-2), WHOLE], ids=["lora", "full"])
def test_killed_resumed_and_extended_by_one_process_alone(changes, tiny_llama, rows, tmp_path):
    full, settings = changes.get("mode") == "full", SETTINGS | changes
    single = Trainer(str(tiny_llama), output=str(tmp_path / "one"), **settings)
    single.train(rows, steps=STEPS, watch=silent)
    single.close()
    ours = settings | {"output": str(tmp_path / "two"), "shard": True}
    codes, said = launch(2, Killed(tiny_llama, rows, ours, STEPS, at=3), tmp_path / "said")
    assert codes == [-signal.SIGKILL, 2] and "RUNTIME_PEER_LOST" in said[1][1], said
    lines = [words(tiny_llama, rows, tmp_path / "two", "--shard", "--resume", **changes)]
    codes, said = launch(2, Command(lines), tmp_path / "said")
    assert codes == [0, 0], said
    assert_equal(tmp_path / "one", tmp_path / "two", full)
    for name in ("one", "two"):
        run = next((tmp_path / name / "runs").iterdir()).name
        alone = Trainer(str(tiny_llama), output=str(tmp_path / name), **settings)
        alone.train(rows, steps=STEPS + 2, resume=run, watch=silent)
        alone.close()
    assert_equal(tmp_path / "one", tmp_path / "two", full)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two cards")
@pytest.mark.parametrize("changes", [{}, WHOLE])
def test_two_cards_hold_a_model_together(changes, looped, tmp_path):
    one = looped("one", rail=CudaRail, batch_size=5, **changes)
    launch(1, one, tmp_path / "said")  # a process that has used a card cannot be forked
    two = looped("two", rail=CudaRail, batch_size=5, shard=True, **changes)
    codes, said = launch(2, two, tmp_path / "said")
    assert codes == [10, 10], said
    found, expected = two.weights(), one.weights()
    assert max((found[name].float() - expected[name].float()).abs().max().item() for name in found) < 1e-3
