"""Sessions with a trainer of numpy: merged, refused, gone on with, and killed at every change of the disk."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from bp_core.adapter_config import AdapterConfig
from bp_core.errors import MergeRefused, ResumeMismatch
from bp_core.folders import damage, digest, new_folder
from bp_multirun import Adapter, Pair, forgetting, read_adapter, shares, write_adapter
from bp_multirun.config import MultiRunConfig
from bp_multirun.mergers import weights
from bp_multirun.record import GENERAL, Entry, Record, Score, Stage, states
from bp_multirun.session import Session, SessionCallbacks

LAYERS = ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj")
CONFIG = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "a-base", "r": 2, "lora_alpha": 4,
    "target_modules": ["q_proj", "v_proj"], "bias": "none", "use_rslora": False, "use_dora": False,
}  # fmt: skip
STAGES = [Stage("jan", "1"), Stage("feb", "2"), Stage("mar", "3")]
FACTS = {"rank": 2}


def factors(number, start):
    """What a stage of this trainer learns: its own numbers, on top of what it begins with."""
    random = np.random.default_rng(number)
    made = {}
    for name in LAYERS:
        a, b = random.normal(size=(2, 6)).astype("float32"), random.normal(size=(4, 2)).astype("float32")
        made[name] = Pair(start[name].a + 0.1 * a, start[name].b + b) if start else Pair(a, b)
    return made


class Trainer:
    """Trains and measures without a model; remembers what it was asked for."""

    def __init__(self, output, losses=None, settings=CONFIG):
        self.output, self.losses, self.settings = output, losses or {}, settings
        self.trained, self.results = [], []

    def callbacks(self):
        return SessionCallbacks(self.train, self.measure, self.done)

    def train(self, number, start, folder):
        target = folder / "lora"
        if damage(target) is not None:
            self.trained.append(number)
            made = factors(number, read_adapter(start).factors if start else None)
            with new_folder(target) as draft:
                write_adapter(draft, Adapter(AdapterConfig.of(self.settings), made, "float32"))
                (draft / "contract.json").write_text("{}")
        return target

    def measure(self, adapter, sets):
        kind = "base" if adapter is None else "merged" if adapter.name == "merged" else "alone"
        after = 0 if adapter is None else int(adapter.parent.name.removeprefix("stage-"))
        return {name: Score([self.losses.get((kind, name, after), 1.0)], [1.0]) for name in sets}

    def done(self, number, merged):
        self.results.append(number)
        (self.output / "result.json").write_text(json.dumps(digest(merged / "adapter_model.safetensors")))


def session(folder, trainer=None, facts=FACTS, **settings):
    trainer = trainer or Trainer(folder)
    return Session(folder / "multi-run", MultiRunConfig(**settings), facts, trainer.callbacks())


def content(folder):
    """Everything that must be the same however often the session was interrupted."""
    kept = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): digest(path) for path in kept}


def test_the_result_is_the_merged_adapter_and_what_lay_beside_it_stays(tmp_path):
    trainer = Trainer(tmp_path)
    made = session(tmp_path, trainer)
    record = made.run(STAGES)
    assert trainer.trained == [1, 2, 3] and record.accepted == (1, 2, 3)
    merged = read_adapter(made.result)
    alone = [read_adapter(tmp_path / f"multi-run/stage-000{n}/lora") for n in (1, 2, 3)]
    wanted = {
        name: sum(w * a.factors[name].b for w, a in zip(shares(3, "inverse-sqrt"), alone, strict=True))
        for name in LAYERS
    }
    for name in LAYERS:
        assert np.array_equal(merged.factors[name].a, alone[-1].factors[name].a)
        assert np.allclose(merged.factors[name].b, wanted[name], atol=1e-6)
        assert not np.allclose(merged.factors[name].b, alone[-1].factors[name].b, atol=1e-3)
    assert damage(made.result) is None and (made.result / "contract.json").read_text() == "{}"


def test_a_stage_added_later_goes_on_as_if_it_had_been_there(tmp_path):
    once, twice = tmp_path / "once", tmp_path / "twice"
    for folder in (once, twice):
        folder.mkdir()
    session(once).run(STAGES)
    session(twice).run(STAGES[:2])
    trainer = Trainer(twice)
    session(twice, trainer).run(STAGES)
    assert trainer.trained == [3]
    assert content(twice) == content(once)


def test_the_state_does_not_grow_with_the_stages(tmp_path):
    sizes = []
    for count in (2, 3):
        session(tmp_path).run(STAGES[:count])
        found = states(tmp_path / "multi-run")
        assert [path.name for path in found] == [f"state-000{count}"]
        sizes.append((found[0] / "state.safetensors").stat().st_size)
    assert sizes[0] == sizes[1]
    assert not (tmp_path / "multi-run/stage-0001/merged").exists(), "only the result is kept merged"


@pytest.mark.parametrize("merge", ["sequential", "linear", "ties", "dare"])
def test_other_rules(merge, tmp_path):
    trainer = Trainer(tmp_path)
    made = session(tmp_path, trainer, merge=merge)
    made.run(STAGES)
    merged = read_adapter(made.result).factors
    alone = [read_adapter(tmp_path / f"multi-run/stage-000{n}/lora").factors for n in (1, 2, 3)]
    if merge == "sequential":
        assert all(np.array_equal(merged[name].b, alone[-1][name].b) for name in LAYERS)
        assert np.allclose(alone[1][LAYERS[0]].b, alone[0][LAYERS[0]].b + factors(2, None)[LAYERS[0]].b)
    else:
        assert np.array_equal(alone[1][LAYERS[0]].b, factors(2, None)[LAYERS[0]].b), "each begins anew"
    if merge == "linear":
        exact = sum(a[LAYERS[0]].b @ a[LAYERS[0]].a for a in alone) / 3
        values = np.linalg.svd(exact, compute_uv=False)
        error = np.linalg.norm(merged[LAYERS[0]].b @ merged[LAYERS[0]].a - exact)
        assert error == pytest.approx(np.linalg.norm(values[2:]), rel=1e-4), "the best adapter of that rank"


def test_shares_of_other_rules():
    assert weights(MultiRunConfig(merge="sequential"), 3) == (0, 0, 1)
    assert weights(MultiRunConfig(merge="ties"), 4) == (0.25,) * 4
    assert weights(MultiRunConfig(schedule="inverse"), 3) == pytest.approx((1 / 3,) * 3)


def test_a_gate_keeps_the_earlier_adapter_and_a_wider_one_looks_again(tmp_path):
    losses = {("merged", "1", 1): 1.0, ("merged", "1", 2): 1.5, ("merged", "1", 3): 1.05, ("merged", "3", 3): 0.5}
    trainer = Trainer(tmp_path, losses)
    before = session(tmp_path, trainer, gate=0.1).run(STAGES[:1])
    record = session(tmp_path, trainer, gate=0.1).run(STAGES[:2])
    assert [entry.accepted for entry in record.entries] == [True, False]
    assert record.entries[1].rise == pytest.approx(0.5)
    assert {n: score.loss for n, score in record.standing().items()} == {
        n: s.loss for n, s in before.standing().items()
    }
    assert json.loads((tmp_path / "result.json").read_text()) == digest(
        tmp_path / "multi-run/stage-0001/lora/adapter_model.safetensors"
    )
    wider = session(tmp_path, trainer, gate=0.6).run(STAGES[:2])
    assert wider.accepted == (1, 2) and trainer.trained == [1, 2], "merged without training again"


def test_a_stage_after_a_refused_one_goes_on_from_the_one_before(tmp_path):
    losses = {("merged", "1", 2): 1.5}
    trainer = Trainer(tmp_path, losses)
    record = session(tmp_path, trainer, gate=0.1).run(STAGES)
    assert record.accepted == (1, 3)
    start = read_adapter(tmp_path / "multi-run/stage-0001/lora").factors
    third = read_adapter(tmp_path / "multi-run/stage-0003/lora").factors
    assert np.allclose(third[LAYERS[0]].b, start[LAYERS[0]].b + factors(3, None)[LAYERS[0]].b)
    assert forgetting.matrix(record)[0] == [1.0, None, 1.0]
    assert [stage.number for stage in forgetting.retained(record)] == [1]


def test_other_data_facts_or_settings_are_refused_before_training(tmp_path):
    session(tmp_path).run(STAGES[:2])
    trainer = Trainer(tmp_path)
    with pytest.raises(ResumeMismatch, match="stage 1 was trained on jan, and other differs"):
        session(tmp_path, trainer).run([Stage("other", "9"), *STAGES[1:]])
    with pytest.raises(ResumeMismatch, match="2 stages are done here, and only 1"):
        session(tmp_path, trainer).run(STAGES[:1])
    with pytest.raises(ResumeMismatch, match="rank was 2, is 3"):
        session(tmp_path, trainer, facts={"rank": 3})
    assert trainer.trained == []


def test_an_adapter_of_other_settings_is_not_merged(tmp_path):
    session(tmp_path).run(STAGES[:1])
    before = content(tmp_path / "multi-run/state-0001")
    other = Trainer(tmp_path, settings=CONFIG | {"lora_alpha": 8})
    with pytest.raises(MergeRefused, match="differ from those of stage 1"):
        session(tmp_path, other).run(STAGES[:2])
    assert content(tmp_path / "multi-run/state-0001") == before


def test_forgetting_is_read_off_the_record():
    def score(loss):
        return Score([loss * 2, loss * 2], [2.0, 2.0])

    def entry(name, after):
        from_base = {str(n): score(3.0) for n in range(1, len(after))} | {GENERAL: score(2.0)}
        merged = {str(n): score(loss) for n, loss in enumerate(after[:-1], 1)} | {GENERAL: score(after[-1])}
        alone = {str(len(after) - 1): score(after[-2] - 0.25)}
        return dict(name=name, digest=name, accepted=True, rise=None, base=from_base, unmerged=alone, merged=merged)

    record = Record({}, (Entry(**entry("a", [1.0, 2.0])), Entry(**entry("b", [1.5, 0.5, 2.25]))))
    assert forgetting.matrix(record) == [[1.0, 1.5], [None, 0.5]]
    assert forgetting.general(record) == [2.0, 2.0, 2.25]
    assert forgetting.average(record) == 1.0
    assert forgetting.backward_transfer(forgetting.retained(record)) == -0.5
    assert forgetting.merge_cost(record) == 0.25


CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "open")


def kill_at(count):
    """End this process at its `count`-th change of the disk; tell how many there are by 0."""
    seen = [0]

    def hook(event, arguments):
        if event in CHANGES and not (event == "open" and not _writes(arguments)):
            seen[0] += 1
            if seen[0] == count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return seen


def _writes(arguments):
    _, mode, flags = arguments
    return any(sign in (mode or "") for sign in "wax+") or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))


def in_child(work):
    """Whether a forked process came to the end of `work`."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, "the child failed by itself"
    return not os.WIFSIGNALED(status)


def campaign(tmp_path, every):
    """Kill a session at every so-manieth change of the disk, go on, and compare all that is left."""
    reference = tmp_path / "reference"
    reference.mkdir()
    session(reference).run(STAGES)
    expected = content(reference)
    number, done = 1, False
    while not done:
        folder = tmp_path / str(number)
        folder.mkdir()

        def killed(folder=folder, number=number):
            kill_at(number)
            session(folder).run(STAGES)

        done = in_child(killed)
        trainer = Trainer(folder)
        session(folder, trainer).run(STAGES)
        assert {n: h for n, h in content(folder).items() if not _draft(n)} == expected, f"killed at change {number}"
        number += every
    return number


def _draft(name):
    """What a killed write left under a hidden name, in places that others may be writing to."""
    return any(part.startswith(".") for part in Path(name).parts)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_killed_at_changes_of_the_disk_it_ends_with_the_same_files(tmp_path):
    assert campaign(tmp_path, every=29) > 100, "changes of the disk"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_killed_at_every_change_of_the_disk_it_ends_with_the_same_files(tmp_path):
    assert campaign(tmp_path, every=1) > 100


def test_a_damaged_state_is_made_again_from_the_stages_adapters(tmp_path):
    session(tmp_path).run(STAGES[:2])
    good = content(tmp_path)
    (tmp_path / "multi-run/state-0002/state.safetensors").write_bytes(b"damaged")
    trainer = Trainer(tmp_path)
    session(tmp_path, trainer).run(STAGES[:2])
    assert trainer.trained == [] and content(tmp_path) == good
