"""The state on disk, and any order of folding, refusing, saving and going on: invariants 21 and 23."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from random_factors import content, seeds, stages
from safetensors.numpy import load_file, save_file

from bp_core.errors import CheckpointUnusable, MergeRefused
from bp_multirun import Pair, fold
from bp_multirun.state_folder import STATE, load, save


class Stages(RuleBasedStateMachine):
    """Whatever happens in between, the state is that of the accepted stages folded one after another."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.state = self.saved = None
        self.accepted, self.committed = [], []

    @rule(seed=seeds)
    def fold(self, seed):
        (new,) = stages(seed, 1)
        self.state = fold(self.state, new)
        self.accepted.append(new)

    @rule(seed=seeds)
    def refused(self, seed):
        (new,) = stages(seed, 1)
        name = next(iter(new))
        with pytest.raises(MergeRefused):
            fold(self.state, new | {name: Pair(new[name].a, new[name].b * np.nan)})

    @precondition(lambda self: self.state)
    @rule()
    def save_and_load(self):
        place = self.folder / str(len(list(self.folder.iterdir())))
        place.mkdir()
        save(self.state, place)
        self.saved, self.committed = place, list(self.accepted)
        self.state = load(place)

    @precondition(lambda self: self.saved)
    @rule()
    def resume(self):
        self.state, self.accepted = load(self.saved), list(self.committed)

    @invariant()
    def is_the_straight_run(self):
        straight = None
        for new in self.accepted:
            straight = fold(straight, new)
        assert (straight is None) == (self.state is None)
        if straight:
            assert straight.index == len(self.accepted)
            assert content(self.state) == content(straight)

    def teardown(self):
        self.state = None
        shutil.rmtree(self.folder)


TestStages = Stages.TestCase  # 21
TestStages.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)


def saved(folder, count):
    state = None
    for new in stages(0, count):
        state = fold(state, new)
    folder.mkdir()
    save(state, folder)
    return state


def test_the_size_does_not_depend_on_the_number_of_stages(tmp_path):
    """23."""
    sizes = set()
    for count in (1, 2, 9, 10, 101):
        saved(tmp_path / str(count), count)
        sizes.add((tmp_path / str(count) / STATE).stat().st_size)
    assert len(sizes) == 1


def test_the_same_state_gives_the_same_bytes(tmp_path):
    state = saved(tmp_path / "a", 3)
    assert content(load(tmp_path / "a")) == content(state)
    (tmp_path / "b").mkdir()
    save(load(tmp_path / "a"), tmp_path / "b")
    assert (tmp_path / "a" / STATE).read_bytes() == (tmp_path / "b" / STATE).read_bytes()


def test_others_read_it_too(tmp_path):
    state = saved(tmp_path / "a", 2)
    found = load_file(tmp_path / "a" / STATE)
    name = next(iter(state.a))
    np.testing.assert_array_equal(found[f"B_merged.{name}"], state.b_merged[name])
    assert len(found) == 3 * len(state.a)


def shortened(path):
    path.write_bytes(path.read_bytes()[:-4])


def without_a_part(path):
    tensors = load_file(path)
    del tensors["A.layers.0.q_proj"]
    save_file(tensors, path, {"format": "slao-1", "index": "00000002"})


def of_other_shape(path):
    tensors = load_file(path)
    tensors["B_merged.layers.0.q_proj"] = tensors["B_merged.layers.0.q_proj"][:1]
    save_file(tensors, path, {"format": "slao-1", "index": "00000002"})


def of_another_kind(path):
    save_file(load_file(path), path, {"format": "pt"})


def with_more(path):
    save_file(load_file(path) | {"optimizer": np.ones(3, np.float32)}, path, {"format": "slao-1", "index": "00000002"})


@pytest.mark.parametrize("damage", [shortened, without_a_part, of_other_shape, of_another_kind, with_more, Path.unlink])
def test_a_damaged_state_is_refused(tmp_path, damage):
    saved(tmp_path / "a", 2)
    damage(tmp_path / "a" / STATE)
    with pytest.raises(CheckpointUnusable):
        load(tmp_path / "a")
