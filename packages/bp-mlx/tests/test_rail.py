import json
import math

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_mlx import batch, go, opened, save

from bp_core.errors import AdapterUnusable, BadValue, ModelUnusable, OutOfMemory
from bp_core.out_of_memory import RECOMPUTE
from bp_core.rail import Job
from bp_mlx import _errors, padding
from bp_mlx.rail import MlxRail

KINDS = {
    "plain": {},
    "dropout": dict(dropout=0.3),
    "rslora": dict(rslora=True, rank=8),
    "dora": dict(dora=True),
    "dora with dropout": dict(dora=True, dropout=0.3),
    "orthogonal": dict(init="orthogonal"),
    "named layers": dict(target_modules="q_proj, down_proj"),
    "4 bits": dict(mode="qlora"),
    "all weights": dict(mode="full"),
    "all weights in bfloat16": dict(mode="full", dtype="bfloat16"),
}


def same(first, second):
    assert first.parameters.keys() == second.parameters.keys()
    return all(mx.array_equal(value, second.parameters[name]) for name, value in first.parameters.items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_run_goes_on_bit_for_bit(kind, tiny, tmp_path):
    straight = opened(tiny, **KINDS[kind])
    whole = go(straight, range(4))
    first = opened(tiny, **KINDS[kind])
    go(first, range(2))
    first.save(tmp_path)
    second = opened(tiny, **KINDS[kind] | {"seed": 99})  # it would start elsewhere
    second.accumulate(batch(seed=7), 1.0)
    second.restore(tmp_path)
    assert go(second, range(2, 4)) == whole[2:]
    assert same(straight, second)
    assert not same(straight, first)


def test_training_lowers_the_loss_and_touches_only_the_adapter(tiny):
    rail, b = opened(tiny), batch()
    before = {name: np.array(value) for name, value in tree_flatten(rail.base.model.parameters()) if "lora" not in name}
    first = rail.evaluate(b)[0]
    for _ in range(15):
        rail.accumulate(b, 1 / 20)
        rail.update(1e-2)
    assert rail.evaluate(b)[0] < first * 0.9
    after = dict(tree_flatten(rail.base.model.parameters()))
    assert before and all(np.array_equal(value, after[name]) for name, value in before.items())


def test_micro_batches_add_up_to_the_whole(tiny):
    whole, parts, b = opened(tiny), opened(tiny), batch((9, 14, 5))
    total, summed = whole.accumulate(b, 0.1), 0.0
    for end, length in zip(np.cumsum(b.lengths), b.lengths, strict=True):
        row = slice(end - length, end)
        summed += parts.accumulate(type(b)(b.tokens[row], b.trained[row], np.array([length])), 0.1)
    assert summed == pytest.approx(total, rel=1e-5)
    assert parts.update(1e-2) == pytest.approx(whole.update(1e-2), rel=1e-4)


def test_a_neighbour_changes_nothing(tiny):
    """Packed or not: reversing one example leaves the loss and the gradients of the other as they were."""
    rail, b, changed = opened(tiny), batch((8, 12)), batch((8, 12))
    changed.tokens[:8] = changed.tokens[:8][::-1]
    changed.trained[:8] = b.trained[:8] = False
    go(rail, range(1))
    found = []
    for one in (b, changed):
        loss = rail.accumulate(one, 1.0)
        found.append((loss, {name: np.array(value) for name, value in rail.gradients.items()}))
        rail.discard()
    assert found[0][0] == found[1][0]
    assert all(np.array_equal(value, found[1][1][name]) for name, value in found[0][1].items())


def test_rows_of_like_length_share_a_grid_and_every_target_is_there_once():
    b = batch((10, 40, 38, 9, 2))
    made = list(padding.grids(b))
    assert [grid.tokens.shape for grid in made] == [(2, 40), (2, 10), (1, 2)]
    assert sum(len(grid.targets) for grid in made) == int(b.trained.sum())
    starts = np.cumsum(b.lengths) - b.lengths
    for grid in made:
        places = starts[grid.owners] + grid.columns + 1
        assert np.array_equal(b.tokens[places], grid.targets) and b.trained[places].all()
        assert np.array_equal(grid.tokens[grid.rows, grid.columns], b.tokens[places - 1])


def test_a_gradient_that_is_not_finite_changes_nothing(tiny):
    rail, b = opened(tiny), batch()
    before = rail.evaluate(b)
    rail.accumulate(b, math.inf)
    assert not math.isfinite(rail.update(1e-2))
    assert rail.evaluate(b) == before and not rail.gradients


@pytest.mark.parametrize("kind", ["plain", "dropout", "dora with dropout", "4 bits"])
def test_layers_computed_twice_give_the_same_gradients(kind, tiny):
    found = []
    for again in (False, True):
        rail = opened(tiny, activation_checkpointing=again, **KINDS[kind])
        assert (RECOMPUTE in rail.savings) == again
        go(rail, range(2))
        rail.accumulate(batch(seed=5), 1.0)
        found.append(rail.gradients)
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name], rtol=1e-4, atol=1e-6)


def test_layers_computed_twice_keep_less_for_the_backward_pass(tmp_path):
    peaks, deep = {}, save(tmp_path, num_hidden_layers=8)
    for again in (False, True):
        rail = opened(deep, activation_checkpointing=again)
        rail.accumulate(batch((200, 200, 200, 200)), 0.01)
        peaks[again] = rail.memory().peak
    assert peaks[True] < peaks[False] * 0.8


def test_beyond_the_limit_is_out_of_memory_and_a_smaller_micro_batch_is_not(tiny):
    rail, large, small = opened(tiny), batch((200,) * 4), batch((200,))
    rail.accumulate(small, 0.01)
    rail.limit = int(rail.memory().peak * 1.3)
    rail.discard()
    with pytest.raises(OutOfMemory, match="safe here"):
        rail.accumulate(large, 0.01)
    rail.discard()
    assert rail.accumulate(small, 0.01) > 0


@pytest.mark.parametrize(
    "words",
    [
        "[malloc_or_wait] Unable to allocate 123 bytes.",
        "[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum allowed buffer size of 5.",
        "[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOf",
    ],
)
def test_what_mlx_says_of_memory_becomes_our_error_and_nothing_else_does(words):
    with pytest.raises(OutOfMemory), _errors.translated():
        raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="shapes"), _errors.translated():
        raise RuntimeError("[matmul] the shapes do not fit")


def test_generation_with_a_cache_equals_the_argmax_of_full_logits(tiny):
    rail = opened(tiny)
    go(rail, range(2))
    made = rail.generate([5, 9, 40], limit=8, stop=[])
    tokens = [5, 9, 40]
    for token in made:
        assert token == int(rail.logits(tokens)[-1].argmax())
        tokens.append(token)


def test_reading_leaves_training_mode_and_adapter_as_they_were(tiny):
    found = []
    for look in (False, True):
        rail = opened(tiny, dropout=0.3)
        if look:
            rail.logits([3, 4, 5], adapter=False)
            rail.generate([3, 4], limit=2, stop=[])
            rail.evaluate(batch())
        assert rail.base.model.training
        found.append(go(rail, range(2)))
    assert found[0] == found[1]


def test_bfloat16_training_keeps_float32_adapters_and_follows_float32(tiny):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        rail = opened(tiny, dtype=dtype)
        assert {value.dtype for value in rail.parameters.values()} == {mx.float32}
        losses[dtype] = go(rail, [0] * 5)
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.02)


def test_a_written_adapter_is_read_again_with_the_same_numbers(tiny, tmp_path):
    for kind, settings in KINDS.items():
        if settings.get("mode") == "full":
            continue
        rail = opened(tiny, **settings)
        go(rail, range(2))
        folder = tmp_path / kind
        folder.mkdir()
        rail.write_adapter(folder)
        reader = MlxRail()
        opened_again = reader.open(Job(tiny, adapter=folder, dtype="float32", mode=settings.get("mode", "lora")))
        assert opened_again.trainable == 0
        np.testing.assert_array_equal(reader.logits([4, 9, 30]), rail.logits([4, 9, 30]))
        more = opened(tiny, adapter=folder, **settings)
        assert same(more, rail)
        assert go(more, [5])[0] > 0


def test_adapters_that_do_something_else_are_refused(tiny, tmp_path):
    rail = opened(tiny)
    rail.write_adapter(tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    for change in (dict(alpha_pattern={"q_proj": 3}), dict(bias="all"), dict(peft_type="IA3"), dict(r=5)):
        path.write_text(json.dumps(config | change))
        with pytest.raises(AdapterUnusable):
            MlxRail().open(Job(tiny, adapter=tmp_path))
    path.unlink()
    with pytest.raises(AdapterUnusable):
        MlxRail().open(Job(tiny, adapter=tmp_path))


def test_missing_and_broken_folders_are_named(tmp_path):
    with pytest.raises(ModelUnusable, match=r"config\.json"):
        MlxRail().open(Job(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(ModelUnusable):
        MlxRail().open(Job(tmp_path))
    save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelUnusable):
        MlxRail().open(Job(tmp_path))


def test_a_model_with_code_of_its_own_does_not_run_it(tmp_path):
    save(tmp_path, model_file="own.py")
    (tmp_path / "own.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ModelUnusable):
        MlxRail().open(Job(tmp_path))


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (dict(fp8=True), "fp8"),
        (dict(optimizer="adamw-8bit"), "bitsandbytes"),
        (dict(mode="full", full_ft_offload=True), "full_ft_offload"),
        (dict(init="pissa"), "pissa"),
        (dict(liger=True), "liger"),
        (dict(attention="eager"), "attention eager"),
        (dict(shard=True), "shard"),
    ],
)
def test_what_mlx_cannot_do_is_refused_by_name(settings, word, tiny):
    with pytest.raises(BadValue, match=word):
        opened(tiny, **settings)


def test_rows_are_refused_where_mlx_lm_leaves_out_a_sliding_window(tmp_path):
    folder = save(tmp_path, model_type="mistral", sliding_window=16)
    with pytest.raises(BadValue, match="only up to 16"):
        opened(folder, max_length=17)
    rail = opened(folder, max_length=16)
    with pytest.raises(BadValue, match="17 tokens"):
        rail.evaluate(batch((17,)))
    assert rail.evaluate(batch((16,)))[1] > 0


def test_memory_and_the_probe_say_where_it_computes():
    rail = MlxRail()
    probe, memory = rail.probe(), rail.memory()
    assert probe.available and 0 < probe.free <= probe.total and "CPU build" in probe.device
    assert 0 <= memory.used <= memory.peak and memory.peak <= memory.total


def test_opening_says_what_the_base_is_kept_in(tiny):
    told = {mode: MlxRail().open(Job(tiny, mode=mode, dtype="float32")) for mode in ("lora", "qlora", "lora-8bit")}
    assert [one.dtype for one in told.values()] == ["float32", "4-bit affine", "8-bit affine"]
    assert len({one.parameters for one in told.values()}) == 1
