"""One suite for every installed rail that runs here: each verb keeps its promise."""

import math
from importlib.util import find_spec

import numpy as np
import pytest
from tiny_models import recipe, save_tiny

from bp_core.errors import UnknownBackend
from bp_core.examples import Batch
from bp_core.rail import Job, Opened, find, rails

AVAILABLE = [name for name in rails() if find(name).probe().available]
LENGTHS = np.array([6, 9], dtype=np.int32)


def batch():
    tokens = np.random.default_rng(0).integers(3, 300, 15).astype(np.int32)
    trained = np.ones(15, dtype=bool)
    trained[[0, 6]] = False
    return Batch(tokens, trained, LENGTHS)


@pytest.fixture(params=AVAILABLE)
def rail(request, tmp_path):
    found = find(request.param)
    opened = found.open(Job(save_tiny(tmp_path / "model"), recipe=recipe(), dtype="float32"))
    assert isinstance(opened, Opened) and opened.trainable > 0
    yield found
    found.close()


def test_null_cpu_and_mlx_run_and_a_missing_one_is_named():
    assert {"null", "cpu"} | ({"mlx"} if find_spec("mlx") else set()) <= set(AVAILABLE)
    with pytest.raises(UnknownBackend, match="abacus"):
        find("abacus")


def test_probing_never_raises():
    assert all(isinstance(find(name).probe().available, bool) for name in rails())


def test_without_a_launcher_a_rail_is_by_itself(rail):
    team = rail.join()
    assert (team.rank, team.size) == (0, 1) and team.gather("a word") == ["a word"]


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
    assert rail.drift(batch()) == pytest.approx(0.0, abs=1e-4)
    for _ in range(3):
        rail.accumulate(batch(), 0.05)
        rail.update(1e-2)
    assert abs(rail.drift(batch())) > 1e-3


def test_needing_less_memory_changes_no_loss_and_comes_to_an_end(rail):
    before = rail.evaluate(batch())
    level = 1
    while (said := rail.relieve(level)) is not None:
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


def test_an_adapter_is_written_and_memory_counted(rail, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    rail.write_adapter(folder)
    assert list(folder.iterdir())
    memory = rail.memory()
    assert all(math.isfinite(part) and part >= 0 for part in (memory.used, memory.peak, memory.total))
