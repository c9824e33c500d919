"""One suite for every installed rail that runs here: each verb keeps its promise."""

import math
from importlib.util import find_spec

import numpy as np
import pytest
from faults import memory, runs
from tiny_models import recipe, save_tiny

from backpropagate import Trainer
from bp_core.backends import find, rails
from bp_core.config import TrainConfig
from bp_core.errors import UnknownBackend
from bp_core.events import MemoryShrunk, Stepped
from bp_core.examples import Batch
from bp_core.null_rail import NullRail
from bp_core.rail import Job, ModelInfo

AVAILABLE = [name for name in rails() if find(name).probe().available]
# The card's are among those of `-m gpu`, where the suite for a card counts them.
RAILS = [pytest.param(name, marks=pytest.mark.gpu) if name == "cuda" else name for name in AVAILABLE]
LENGTHS = np.array([6, 9], dtype=np.int32)


def batch():
    tokens = np.random.default_rng(0).integers(3, 300, 15).astype(np.int32)
    trained = np.ones(15, dtype=bool)
    trained[[0, 6]] = False
    return Batch(tokens, trained, LENGTHS)


@pytest.fixture(params=RAILS)
def rail(request, tmp_path):
    found = find(request.param)
    opened = found.open(Job(save_tiny(tmp_path / "model"), recipe=recipe(), dtype="float32"))
    assert isinstance(opened, ModelInfo) and opened.trainable > 0
    yield found
    found.close()


def test_null_cpu_and_mlx_run_and_a_missing_one_is_named():
    assert {"null", "cpu"} | ({"mlx"} if find_spec("mlx") else set()) <= set(AVAILABLE)
    with pytest.raises(UnknownBackend, match="abacus"):
        find("abacus")


def test_probing_never_raises():
    assert all(isinstance(find(name).probe().available, bool) for name in rails())


@pytest.mark.parametrize("name", AVAILABLE)
def test_a_format_is_slow_only_where_it_is_emulated(name):
    probe, found = find(name).probe(), find(name)
    assert found.slowdown("float32") is None and found.slowdown("auto") is None
    emulated = found.slowdown("bfloat16")
    assert emulated is None or (emulated > 0 and probe.dtype == "float32")
    assert probe.dtype != "bfloat16" or emulated is None, "what auto takes is computed by instructions"


def test_without_a_launcher_a_rail_is_by_itself(rail):
    group = rail.join()
    assert (group.rank, group.size) == (0, 1) and group.gather("a word") == ["a word"]


def test_accumulating_and_updating_lowers_the_loss(rail):
    total, count, _ = rail.evaluate(batch())
    assert count == 13 and total > 0
    assert rail.accumulate(batch(), 1 / count) == pytest.approx(total / count, rel=1e-4)
    assert rail.update(1e-2) > 0
    for _ in range(5):
        rail.accumulate(batch(), 1 / count)
        rail.update(1e-2)
    assert rail.evaluate(batch())[0] < total


def test_discarded_gradients_leave_no_trace(rail, tmp_path):
    rail.accumulate(batch(), 1.0)
    rail.discard()
    rail.accumulate(batch(), 0.01)
    with_discard = rail.update(1e-2)
    fresh = type(rail)()
    fresh.open(Job(save_tiny(tmp_path / "again"), recipe=recipe(), dtype="float32"))
    fresh.accumulate(batch(), 0.01)
    assert fresh.update(1e-2) == pytest.approx(with_discard, rel=1e-6)


def test_an_adapter_that_has_learned_nothing_has_not_drifted(rail):
    assert rail.kl_reference(batch()) == pytest.approx(0.0, abs=1e-4)
    for _ in range(3):
        rail.accumulate(batch(), 0.05)
        rail.update(1e-2)
    assert abs(rail.kl_reference(batch())) > 1e-3


def test_needing_less_memory_changes_no_loss_and_comes_to_an_end(rail):
    before = rail.evaluate(batch())
    level = 1
    while (said := rail.save_memory(level)) is not None:
        assert said
        assert rail.accumulate(batch(), 1 / before[1]) == pytest.approx(before[0] / before[1], rel=1e-4)
        rail.discard()
        level += 1
    assert level < 9 and rail.evaluate(batch()) == before


def test_restore_brings_back_what_save_wrote(rail, tmp_path):
    def step():
        rail.accumulate(batch(), 0.05)
        rail.update(1e-2)

    step()
    state = tmp_path / "state"
    state.mkdir()
    rail.save(state)
    step()
    after = rail.evaluate(batch())
    step()
    rail.restore(state)
    step()
    assert rail.evaluate(batch()) == after


def test_logits_have_a_row_a_token_and_generation_stops(rail):
    assert len(rail.logits([5, 6, 7])) == len(rail.logits([5, 6, 7], adapter=False)) == 3
    told = []
    made = rail.generate([5, 6, 7], limit=4, stop=[], on_token=told.append)
    assert made == told and 0 < len(made) <= 4
    assert rail.generate([5, 6, 7], limit=9, stop=[made[-1]])[-1] == made[-1]


def test_a_pick_chooses_each_token_from_its_logits(rail):
    if isinstance(rail, NullRail):
        pytest.skip("it has no logits")
    seen = []

    def second(logits):
        seen.append(logits)
        return int(np.argsort(-logits, kind="stable")[1])

    made = rail.generate([5, 6, 7], limit=3, stop=[], pick=second)
    assert len(made) == len(seen) == 3 and all(row.dtype == np.float32 and row.ndim == 1 for row in seen)
    assert np.allclose(seen[2], rail.logits([5, 6, 7, *made[:2]])[-1], atol=1e-4)
    assert made[0] != rail.generate([5, 6, 7], limit=1, stop=[])[0]


def test_squares_of_inputs_are_summed_by_layer(rail):
    sums = rail.input_squares([[5, 6, 7], [8, 9]])
    apart = [rail.input_squares([row]) for row in ([5, 6, 7], [8, 9])]
    assert all(values.ndim == 1 and (values >= 0).all() for values in sums.values())
    for name, values in sums.items():
        assert np.allclose(values, apart[0][name] + apart[1][name], rtol=1e-5), name
    logits = np.asarray(rail.logits([5, 6, 7]))
    rail.input_squares([[5, 6, 7]])
    assert np.array_equal(np.asarray(rail.logits([5, 6, 7])), logits), "measuring changes nothing"


def test_an_adapter_is_written_and_memory_counted(rail, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    rail.write_adapter(folder)
    assert list(folder.iterdir())
    memory = rail.memory()
    assert all(math.isfinite(part) and part >= 0 for part in (memory.used, memory.peak, memory.total))


def test_the_defaults_are_refused_nowhere_and_collecting_changes_nothing(rail):
    rail.check(TrainConfig())
    before = rail.evaluate(batch())
    rail.collect()
    assert rail.evaluate(batch()) == before


@pytest.mark.parametrize("name", AVAILABLE)
def test_a_model_trained_whole_is_written(name, tmp_path):
    found, model = find(name), tmp_path / "written"
    found.open(Job(save_tiny(tmp_path / "model"), recipe=recipe(mode="full"), dtype="float32"))
    found.accumulate(batch(), 0.05)
    assert found.update(1e-3) > 0
    model.mkdir()
    found.write_model(model)
    assert list(model.iterdir())
    found.close()


@pytest.fixture(scope="module")
def work(home, tmp_path_factory):
    return runs.prepare(tmp_path_factory.mktemp("work"))


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(("accumulate", 5, True), id="accumulate"),
        pytest.param(("update", 2, False), id="update", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", AVAILABLE)
def test_out_of_memory_costs_time_and_no_example(name, fault, work, tmp_path, monkeypatch):
    """The step is done again in smaller micro-batches, and comes to the same loss."""
    monkeypatch.setitem(memory.SETTINGS, "backend", name)
    plain, hit = memory.run(*work, tmp_path / "plain"), memory.run(*work, tmp_path / "hit", *fault)
    assert sum(isinstance(event, MemoryShrunk) for event in hit) == 1
    mine, theirs = ([(e.step, e.targets, e.loss) for e in told if isinstance(e, Stepped)] for told in (hit, plain))
    assert [step[:2] for step in mine] == [step[:2] for step in theirs] and len(mine) == memory.STEPS
    np.testing.assert_allclose([step[2] for step in mine], [step[2] for step in theirs], rtol=1e-5)


WEIGHTS = ("adapter_model.safetensors", "null.json")


class Cut(Exception):
    pass


@pytest.mark.parametrize("name", AVAILABLE)
def test_a_run_cut_off_and_resumed_ends_with_the_same_bytes(name, work, tmp_path):
    def cut(event):
        if getattr(event, "step", 0) == 3:
            raise Cut

    def trained(folder, watch=lambda event: None, **options):
        trainer = Trainer(str(model), output=str(tmp_path / folder), **runs.SETTINGS | {"backend": name})
        run = trainer.train(str(rows), steps=4, watch=watch, **options)
        trainer.close()
        (weights,) = (run.adapter / file for file in WEIGHTS if (run.adapter / file).exists())
        return weights.read_bytes(), run.losses

    model, rows = work
    whole = trained("whole")
    with pytest.raises(Cut):
        trained("cut", cut)
    assert trained("cut", resume=True) == whole
