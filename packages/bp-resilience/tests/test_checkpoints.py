import json
import os

import pytest
from tiny_runs import Time, held_out, kinds, run

from bp_core.errors import CheckpointUnusable, Interrupted
from bp_core.events import Checkpointed, Started, Warned
from bp_core.folders import write_manifest
from bp_core.null_rail import NullRail
from bp_core.rail import EvalSums
from bp_resilience import CheckpointManager, LoopContext, Signals


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_last_ones_are_kept(tmp_path):
    run(tmp_path)
    assert names(tmp_path) == ["step-000009", "step-000010"]


def test_a_checkpoint_names_its_run(tmp_path):
    folder = tmp_path / "run-7" / "checkpoints"
    run(folder)
    assert json.loads((folder / "step-000010" / "state.json").read_text())["run"] == "run-7"
    assert CheckpointManager(folder, 3, 2).restore(NullRail(), print).step == 10


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path):
    run(tmp_path)
    state = tmp_path / "step-000010" / "state.json"
    record = json.loads(state.read_text())
    old = {"memory_saving": "relief", "trained_tokens": "targets"}
    state.write_text(json.dumps({old.get(name, name): value for name, value in record.items()} | {"relief": 1}))
    write_manifest(tmp_path / "step-000010")
    restored = CheckpointManager(tmp_path, 3, 2).restore(NullRail(), print)
    assert (restored.memory_saving, restored.trained_tokens) == (1, record["trained_tokens"])


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "null.json").write_text('{"updates": 99, "weight": 1}'),
        lambda folder: os.truncate(folder / "null.json", 5),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "state.json").unlink(),
    ],
)
def test_a_torn_or_altered_one_is_passed_over_with_a_warning(tmp_path, harm):
    whole, _ = run(tmp_path / "whole")
    run(tmp_path / "harmed")
    harm(tmp_path / "harmed" / "step-000010")
    events = []
    rail, _ = run(tmp_path / "harmed", watch=events.append)
    (warned,) = kinds(events, Warned)
    assert "step-000010 is passed over" in warned.describe()
    assert kinds(events, Started)[0].step == 9 and rail.weight == whole.weight
    assert names(tmp_path / "harmed") == ["step-000009", "step-000010"]


def test_damaged_ones_ahead_do_not_push_out_whole_ones(tmp_path):
    run(tmp_path, checkpoint_every=2)
    for name in ("step-000011", "step-000012"):
        (tmp_path / name).mkdir()
    run(tmp_path, steps=13, checkpoint_every=20)
    assert names(tmp_path) == ["step-000010", "step-000013"]


def test_leftovers_of_killed_writes_are_swept(tmp_path):
    run(tmp_path)
    for name in (".step-000011.abc", ".step-000003.dropped"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("x")
    (tmp_path / "notes.txt").write_text("mine")
    run(tmp_path, steps=11)
    assert names(tmp_path) == ["notes.txt", "step-000010", "step-000011"]


def test_a_state_that_is_none_is_named(tmp_path):
    run(tmp_path)
    (tmp_path / "step-000010" / "state.json").write_text(json.dumps({"stop": 4}))
    write_manifest(tmp_path / "step-000010")
    with pytest.raises(CheckpointUnusable, match="state"):
        CheckpointManager(tmp_path, 3, 2).restore(NullRail(), print)


def test_minutes_make_one_due_as_well(tmp_path):
    time, events = Time(), []

    class Slow(NullRail):
        def update(self, learning_rate):
            time.seconds += 40
            return super().update(learning_rate)

    run(tmp_path, Slow(), events.append, LoopContext(clock=time.clock), checkpoint_every=100, checkpoint_minutes=2)
    assert [event.step for event in kinds(events, Checkpointed)] == [3, 6, 9, 10]


def test_the_best_one_is_kept_besides(tmp_path):
    class Turning(NullRail):
        """Better until update 4, worse afterwards."""

        def evaluate(self, batch):
            count = super().evaluate(batch)[1]
            return EvalSums(count * (1 + abs(self.updates - 4)), count)

    _, state = run(tmp_path, Turning(), context=LoopContext(held_out()), eval_every=2)
    assert state.best_step == 4 and state.best_loss == 1.0
    assert names(tmp_path) == ["step-000004", "step-000009", "step-000010"]
    rail = Turning()
    assert CheckpointManager(tmp_path, 3, 2).restore_step(4, rail) and rail.updates == 4
    (tmp_path / "step-000004" / "null.json").write_text("{}")
    assert not CheckpointManager(tmp_path, 3, 2).restore_step(4, rail)


def test_a_stop_before_the_first_step_writes_no_checkpoint_twice(tmp_path):
    signals, events = Signals(), []
    signals.stop_requested = True
    for _ in range(2):
        with pytest.raises(Interrupted, match="step 0 of 10"):
            run(tmp_path, watch=events.append, context=LoopContext(signals=signals))
    assert [event.step for event in kinds(events, Checkpointed)] == [0]
