import numpy as np
import pytest
import torch
from tiny_models import batch, recipe, save_tiny

from bp_core import out_of_memory
from bp_core.rail import Job
from bp_cuda.rail import CpuRail


def opened(folder, level, **changes):
    rail = CpuRail()
    rail.open(Job(folder, recipe=recipe(**changes), dtype="float32"))
    said = [rail.save_memory(number) for number in range(1, level + 1)]
    return rail, said


def trained(folder, level, **changes):
    """Losses and norms of four steps, and the adapter after them."""
    rail, _ = opened(folder, level, **changes)
    told = [(rail.accumulate(batch(seed=seed), 1 / 20), rail.update(1e-3)) for seed in range(4)]
    return told, {name: parameter.detach().clone() for name, parameter in rail.parameters.items()}


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3", "qwen3_5_text", "bloom"])
def test_what_saves_memory_changes_no_number(family, tmp_path):
    folder = save_tiny(tmp_path / family, family)
    (plain, weights), (recomputed, same), (pieces, _) = (trained(folder, level) for level in range(3))
    assert recomputed == plain and all(torch.equal(weights[name], same[name]) for name in weights)
    np.testing.assert_allclose(pieces, plain, rtol=1e-5)


def test_recomputing_draws_the_same_dropout(tiny):
    assert trained(tiny, 0, dropout=0.3)[0] == trained(tiny, 1, dropout=0.3)[0]


def test_less_is_kept_for_the_backward_pass(tiny):
    def kept(level):
        rail, _ = opened(tiny, level)
        seen = {}

        def note(tensor):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = rail._losses(batch((80, 80)))[0].sum()
        del loss
        return sum(seen.values())

    assert kept(1) < 0.6 * kept(0)


def test_pieces_share_the_targets_and_leave_none_out():
    whole = batch((9, 14, 5))
    parts = list(out_of_memory.pieces(whole, [out_of_memory.PIECES]))
    assert len(parts) == 4
    assert sum(part.trained.astype(int) for part in parts).tolist() == whole.trained.astype(int).tolist()
    few = batch((3,))
    assert all(part.trained.any() for part in out_of_memory.pieces(few, [out_of_memory.PIECES]))
    assert list(out_of_memory.pieces(whole, [])) == [whole]


def test_ways_are_told_in_words_and_end(tiny):
    rail, said = opened(tiny, 3)
    assert said == [out_of_memory.RECOMPUTE, out_of_memory.PIECES, None]
    assert rail.open(Job(tiny, recipe=recipe(), dtype="float32")) and rail.savings == []
