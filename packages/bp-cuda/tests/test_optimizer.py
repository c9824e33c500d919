"""AdamW with its moments in 8 bits: learns as with 32, comes back bit for bit, and is refused where it cannot run."""

import numpy as np
import pytest
import torch
from tiny_models import batch, opened, recipe

from bp_core.config import TrainConfig
from bp_core.errors import BadValue, CheckpointUnusable, PackageMissing
from bp_core.rail import Job
from bp_cuda import optimizer as optimizers
from bp_cuda import requirements, stochastic_rounding
from bp_cuda.rail import CpuRail, CudaRail

bitsandbytes = pytest.importorskip("bitsandbytes")
# Weights of 4096 numbers or more get 8-bit moments.
WAYS = {
    "adapter": dict(rank=64, alpha=64.0),
    "full": dict(mode="full"),
    "full, bfloat16": dict(mode="full", dtype="bfloat16"),
}


def go(rail, seeds, rate=1e-3):
    losses = []
    for seed in seeds:
        losses.append(rail.accumulate(batch(seed=seed), 1 / 20))
        rail.update(rate)
    return losses


@pytest.mark.parametrize("way", WAYS)
def test_8_bit_moments_teach_what_32_bit_ones_teach(way, tiny):
    losses = {kind: go(opened(tiny, optimizer=kind, **WAYS[way]), [0] * 12) for kind in ("adamw", "adamw-8bit")}
    assert losses["adamw"][-1] < losses["adamw"][0] * 0.9
    np.testing.assert_allclose(losses["adamw-8bit"], losses["adamw"], rtol=0.05)


@pytest.mark.parametrize("way", WAYS)
def test_a_restored_run_ends_with_the_same_weights(way, tiny, tmp_path):
    options = WAYS[way] | {"optimizer": "adamw-8bit"}
    straight = opened(tiny, **options)
    go(straight, range(4))
    first = opened(tiny, **options)
    go(first, range(2))
    first.save(tmp_path)
    second = opened(tiny, seed=99, **options)
    second.restore(tmp_path)
    go(second, range(2, 4))
    kinds = {state["state1"].dtype for state in second.optimizer.state.values()}
    assert torch.uint8 in kinds
    for name, parameter in straight.parameters.items():
        assert torch.equal(parameter, second.parameters[name]), name


def test_a_checkpoint_of_another_optimizer_is_refused(tiny, tmp_path):
    opened(tiny).save(tmp_path)
    with pytest.raises(CheckpointUnusable):
        opened(tiny, optimizer="adamw-8bit").restore(tmp_path)


def test_updates_too_small_for_bfloat16_arrive_with_8_bit_moments_too():
    weights = {
        kind: {"w": torch.nn.Parameter(torch.full((size,), 0.1, dtype=torch.bfloat16))}
        for kind, size in (("bitsandbytes", 8192), ("ours", 8192), ("ours, small", 4000))
    }
    for kind, parameters in weights.items():
        optimizer = optimizers.build(parameters, recipe(optimizer="adamw-8bit"))
        if kind == "bitsandbytes":
            optimizer = bitsandbytes.optim.AdamW8bit(parameters.values(), weight_decay=0.0)
        optimizer.param_groups[0]["lr"] = 1e-5
        torch.manual_seed(1)
        for _ in range(50):
            parameters["w"].grad = torch.ones_like(parameters["w"])
            optimizer.step()
    found = {kind: parameters["w"].float().mean().item() for kind, parameters in weights.items()}
    start = torch.tensor(0.1).bfloat16().float().item()
    assert found["bitsandbytes"] == pytest.approx(start, abs=1e-6)  # the fault
    for kind in ("ours", "ours, small"):
        assert found[kind] == pytest.approx(start - 50 * 1e-5, rel=0.01)


@pytest.mark.parametrize("kind", ["adamw", "adamw-8bit"])
def test_a_weight_taken_in_pieces_has_the_same_moments(kind, monkeypatch):
    torch.manual_seed(3)
    value, gradient = torch.randn(70, 70).bfloat16(), torch.randn(70, 70).bfloat16()
    states = []
    for piece in (1 << 24, 512):
        monkeypatch.setattr(stochastic_rounding, "_PIECE", piece)
        parameters = {"w": torch.nn.Parameter(value.clone())}
        optimizer = optimizers.build(parameters, recipe(optimizer=kind))
        for _ in range(2):
            parameters["w"].grad = gradient.clone()
            optimizer.step()
        states.append(optimizer.state[parameters["w"]])
        assert (parameters["w"] - value).abs().max() > 0
    for key, whole in states[0].items():
        assert torch.equal(torch.as_tensor(whole), torch.as_tensor(states[1][key])), key


def test_pages_need_a_card_and_8_bits_need_bitsandbytes(tiny, monkeypatch):
    with pytest.raises(BadValue, match="use adamw-8bit"):
        CpuRail().open(Job(tiny / "nowhere", recipe=recipe(optimizer="paged-adamw-8bit")))
    CudaRail().check(TrainConfig(optimizer="paged-adamw-8bit"))
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    CudaRail().check(TrainConfig())
    with pytest.raises(PackageMissing, match="bitsandbytes") as caught:
        CudaRail().check(TrainConfig(optimizer="paged-adamw-8bit"))
    assert "bp-cuda[quant]" in caught.value.fix and "--optimizer adamw" in caught.value.fix


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["adamw-8bit", "paged-adamw-8bit"])
def test_on_a_card_moments_are_paged_saved_and_restored(kind, tiny, tmp_path):
    def on_card():
        rail = CudaRail()
        options = recipe(mode="full", dtype="bfloat16", optimizer=kind)
        rail.open(Job(tiny, recipe=options, dtype="bfloat16"))
        return rail

    straight = on_card()
    go(straight, range(4))
    first = on_card()
    go(first, range(2))
    first.save(tmp_path)
    second = on_card()
    second.restore(tmp_path)
    go(second, range(2, 4))
    for name, parameter in straight.parameters.items():
        torch.testing.assert_close(parameter, second.parameters[name], msg=name)


def with_moments_on_host(tiny, seed=1):
    """A rail whose 8-bit moments are handled as those of a card: brought to it, and taken back, piece by piece."""
    options = dict(mode="full", dtype="bfloat16", optimizer="adamw-8bit", seed=seed)
    rail = opened(tiny, **options)
    rail.optimizer = optimizers.build(rail.parameters, recipe(**options | {"optimizer": "host-adamw-8bit"}))
    return rail


def weights_of(rail):
    return {name: parameter.detach().clone() for name, parameter in rail.parameters.items()}


@pytest.mark.parametrize("piece", [1 << 24, 4096])
def test_moments_on_the_host_teach_bit_for_bit_what_those_on_the_card_teach(piece, tiny, monkeypatch):
    monkeypatch.setattr(stochastic_rounding, "_PIECE", piece)
    trained = []
    for rail in (opened(tiny, mode="full", dtype="bfloat16", optimizer="adamw-8bit"), with_moments_on_host(tiny)):
        torch.manual_seed(3)
        go(rail, range(3))
        trained.append(weights_of(rail))
    for name, weight in trained[0].items():
        assert torch.equal(weight, trained[1][name]), name


def test_a_run_with_moments_on_the_host_comes_back_bit_for_bit(tiny, tmp_path):
    straight, first, second = (with_moments_on_host(tiny) for _ in range(3))
    torch.manual_seed(3)
    go(straight, range(4))
    torch.manual_seed(3)
    go(first, range(2))
    first.save(tmp_path)
    second.restore(tmp_path)
    go(second, range(2, 4))
    for name, parameter in straight.parameters.items():
        assert torch.equal(parameter, second.parameters[name]), name


def test_what_is_brought_to_the_card_was_allocated_before(tiny):
    rail = with_moments_on_host(tiny)
    assert rail.optimizer._moments is not None and rail.optimizer._space is not None
    kinds = {state["state1"].dtype for state in rail.optimizer.state.values()}
    assert kinds == {torch.uint8, torch.float32}  # small weights keep 32-bit moments beside them


def test_moments_on_the_host_need_a_card(tiny):
    with pytest.raises(BadValue, match="for a card, and there is none"):
        CpuRail().open(Job(tiny / "nowhere", recipe=recipe(mode="full", optimizer="host-adamw-8bit")))
