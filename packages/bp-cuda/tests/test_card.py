"""What a graphics card does with every verb, mode and method. Run with -m gpu on a machine that has one."""

import math

import pytest
import torch
from tiny_models import batch, recipe, save_tiny

from bp_core.errors import OutOfMemory
from bp_core.rail import Job
from bp_cuda import device as devices
from bp_cuda import optimizer as optimizers
from bp_cuda.rail import CpuRail, CudaRail

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no NVIDIA card"),
]
WORDS = [5, 17, 200, 31, 8]
MODES = {
    "lora": {},
    "lora, recomputed": {"activation_checkpointing": True},
    "lora, dora": {"dora": True},
    "lora, dropout": {"dropout": 0.1},
    "qlora": {"mode": "qlora"},
    "lora-8bit": {"mode": "lora-8bit"},
    "full": {"mode": "full", "learning_rate": 1e-3},
    "full, moments on the card": {"mode": "full", "optimizer": "adamw-8bit"},
    "full, moments paged": {"mode": "full", "optimizer": "paged-adamw-8bit"},
    "full, moments on the host": {"mode": "full", "optimizer": "host-adamw-8bit"},
}
QUANTISED = ("qlora", "lora-8bit", "8bit")


def on_card(folder, dtype="bfloat16", **changes):
    if any(word in str(changes) for word in QUANTISED):
        pytest.importorskip("bitsandbytes")
    rail = CudaRail()
    rail.open(Job(folder, recipe=recipe(backend="cuda", dtype=dtype, **changes), dtype=dtype))
    return rail


def losses(rail, seeds, rate=1e-3):
    found = []
    for seed in seeds:
        found.append(rail.accumulate(batch(seed=seed), 1 / 20))
        rail.update(rate)
    return found


@pytest.fixture
def preference():
    """Two answers to one question, the chosen one first."""
    return batch((9, 9))


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_learns(mode, tiny):
    rail = on_card(tiny, **MODES[mode])
    found = losses(rail, [0] * 12, rate=5e-3)
    assert all(map(math.isfinite, found)) and found[-1] < 0.95 * found[0]
    rail.close()


@pytest.mark.parametrize("method", ["orpo", "simpo"])
def test_every_method_of_pairs_learns(method, tiny, preference):
    rail = on_card(tiny, method=method, beta=0.1 if method == "orpo" else 2.0, gamma=1.0)
    first = rail.accumulate(preference, 1.0)
    rail.update(1e-2)
    for _ in range(8):
        last = rail.accumulate(preference, 1.0)
        rail.update(1e-2)
    assert last < first
    assert rail.evaluate(preference).right in (0, 1)
    rail.close()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text", "phi3", "smollm3", "qwen3_5_text"])
def test_a_card_says_what_the_processor_says(family, tmp_path):
    folder = save_tiny(tmp_path / family, family)
    card, host = CudaRail(), CpuRail()
    for rail in (card, host):
        rail.open(Job(folder, dtype="float32"))
    difference = abs(card.logits(WORDS) - host.logits(WORDS)).max()
    assert difference < 1e-2
    assert card.generate(WORDS, limit=4, stop=[]) == host.generate(WORDS, limit=4, stop=[])
    card.close()


@pytest.mark.parametrize("mode", ["lora", "qlora", "full, moments on the host"])
def test_a_restored_run_goes_on_with_the_same_losses(mode, tiny, tmp_path):
    straight = losses(on_card(tiny, **MODES[mode]), range(4))
    first = on_card(tiny, **MODES[mode])
    losses(first, range(2))
    first.save(tmp_path)
    second = on_card(tiny, seed=99, **MODES[mode])
    second.restore(tmp_path)
    assert losses(second, range(2, 4)) == pytest.approx(straight[2:], rel=1e-3)


def test_moments_on_the_host_teach_what_those_on_the_card_teach(tiny):
    pytest.importorskip("bitsandbytes")
    trained = []
    for kind in ("adamw-8bit", "host-adamw-8bit"):
        rail = on_card(tiny, mode="full", optimizer="adamw-8bit")
        rail.optimizer = optimizers.build(rail.parameters, recipe(mode="full", optimizer=kind))
        torch.manual_seed(3)
        losses(rail, [0] * 3)
        trained.append({name: parameter.detach().clone() for name, parameter in rail.parameters.items()})
    for name, weight in trained[0].items():
        torch.testing.assert_close(weight, trained[1][name], rtol=2e-2, atol=1e-3)
    large = [state["state1"] for state in rail.optimizer.state.values() if state["state1"].dtype == torch.uint8]
    assert large and all(moments.device.type == "cpu" and moments.is_pinned() for moments in large)


def test_after_a_real_lack_of_memory_the_step_is_replayed(tiny):
    rail = on_card(tiny)
    before = rail.evaluate(batch())
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(max(0, free - (96 << 20)), dtype=torch.uint8, device="cuda")
    with pytest.raises(OutOfMemory):
        rail.accumulate(batch((250,) * 2000), 1.0)
    del hog
    rail.discard()
    assert rail.evaluate(batch()) == before
    assert rail.accumulate(batch(), 1 / 20) > 0 and rail.update(1e-3) > 0


@pytest.mark.parametrize("level", [1, 2, 3])
def test_every_way_to_save_memory_leaves_the_loss_as_it_is(level, tiny):
    plain, rail = on_card(tiny, dtype="float32"), on_card(tiny, dtype="float32")
    for step in range(1, level + 1):
        assert rail.save_memory(step)
    expected, found = (losses(one, range(3)) for one in (plain, rail))
    assert found == pytest.approx(expected, rel=1e-3)


def test_memory_and_the_card_are_told(tiny):
    rail = on_card(tiny)
    memory, probe = rail.memory(), rail.probe()
    assert 0 < memory.used <= memory.peak < memory.total
    assert probe.available and probe.toolkit and 0 < probe.free <= probe.total
    assert devices.card(rail.device).startswith("GPU-")
    rail.close()


def test_what_is_written_is_read_on_the_processor(tiny, tmp_path):
    rail = on_card(tiny, dtype="float32")
    losses(rail, range(3))
    rail.write_adapter(tmp_path)
    reader = CpuRail()
    reader.open(Job(tiny, adapter=tmp_path, dtype="float32"))
    assert abs(reader.logits(WORDS) - rail.logits(WORDS)).max() < 1e-2
