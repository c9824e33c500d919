"""Float8 products with the frozen base, rounded on the CPU as a card rounds them."""

import pytest
import torch
from tiny_models import batch, recipe, save_tiny
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from bp_core.config import TrainConfig
from bp_core.errors import BadValue, ModelUnusable, PackageMissing
from bp_core.examples import Batch
from bp_core.rail import Job
from bp_cuda import requirements
from bp_cuda.rail import CpuRail, CudaRail


class EmulatingRail(CpuRail):
    emulates_float8 = True


@pytest.fixture
def float8():
    pytest.importorskip("torchao", reason="needs the group `fp8`")
    return pytest.importorskip("bp_cuda.float8")


def opened(folder, *, fp8, dtype="float32", **changes):
    """With an adapter that has begun to learn, so that every gradient is there."""
    rail = EmulatingRail() if fp8 else CpuRail()
    rail.open(Job(folder, recipe=recipe(fp8=fp8, dtype=dtype, **changes), dtype=dtype))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in rail.parameters.items():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=generator)
    return rail


def go(rail, seeds):
    for seed in seeds:
        rail.accumulate(batch(seed=seed), 0.05)
        rail.update(5e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{}, dict(dora=True), dict(init="pissa")], ids=str)
def test_losses_and_gradients_are_near_those_of_16_bits_and_it_learns(dtype, options, float8, tiny):
    near, plain = (opened(tiny, fp8=fp8, dtype=dtype, **options) for fp8 in (True, False))
    losses = [rail.accumulate(batch(), 0.05) for rail in (near, plain)]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)
    gradients = [torch.cat([p.grad.flatten() for p in rail.parameters.values()]) for rail in (near, plain)]
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98
    assert gradients[0].norm().item() == pytest.approx(gradients[1].norm().item(), rel=0.1)
    near.discard()
    before = near.evaluate(batch())[0]
    go(near, [0] * 10)
    assert near.evaluate(batch())[0] < 0.7 * before


def test_an_example_gives_the_same_alone_and_in_company(float8, tiny):
    rail, whole = opened(tiny, fp8=True), batch()
    rows = [slice(0, 9), slice(9, 23), slice(23, 28)]
    alone = [rail.evaluate(Batch(whole.tokens[r], whole.trained[r], [r.stop - r.start]))[0] for r in rows]
    assert sum(alone) == pytest.approx(rail.evaluate(whole)[0], rel=1e-5)


def test_products_equal_torchao_and_the_frozen_weights_get_no_gradient(float8):
    torch.manual_seed(0)
    theirs = float8.Float8Linear.from_float(
        torch.nn.Linear(48, 32), config=float8.Float8LinearConfig(round_scales_to_power_of_2=True, emulate=True)
    )
    ours = float8.FrozenFloat8Linear.from_float(theirs, config=theirs.config)
    inputs = [torch.randn(2, 16, 48).requires_grad_()]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    outputs = [layer(x) for layer, x in zip((theirs, ours), inputs, strict=True)]
    slope = torch.randn(2, 16, 32)
    outputs[0].backward(slope)
    theirs.weight.grad = None
    outputs[1].backward(slope)
    assert torch.equal(*outputs) and torch.equal(inputs[0].grad, inputs[1].grad)
    assert ours.weight is theirs.weight and ours.weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_emulated_is_what_torch_multiplies(dtype, float8):
    """torch has a float8 product on the CPU, too; 28 rows are no multiple of 16."""
    found = []
    for emulate in (True, False):
        torch.manual_seed(0)
        plain = torch.nn.Linear(48, 32, dtype=dtype).requires_grad_(False)
        config = float8.Float8LinearConfig(round_scales_to_power_of_2=True, emulate=emulate)
        x = torch.randn(28, 48, dtype=dtype).requires_grad_()
        product = float8.FrozenFloat8Linear.from_float(plain, config=config)(x)
        product.backward(torch.randn(28, 32, dtype=dtype))
        found.append((product.detach(), x.grad, plain(x.detach())))
    for emulated, real in zip(*found, strict=True):
        assert torch.allclose(emulated, real, rtol=1e-2, atol=1e-5)
    assert not torch.equal(found[1][0], found[1][2])


def test_all_layers_that_fit_are_converted_but_for_the_head(float8, tiny):
    base = opened(tiny, fp8=True).model.get_base_model()
    names = {name for name, layer in base.named_modules() if isinstance(layer, float8.FrozenFloat8Linear)}
    kinds = {name.split(".")[-2] for name in names}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(names) == 7 * 3 and all(name.endswith(".base_layer") for name in names)


def test_sides_that_are_no_multiple_of_16_stay_or_are_refused(float8, tmp_path):
    sizes = dict(vocab_size=300, hidden_size=64, intermediate_size=104, num_hidden_layers=1, num_attention_heads=4)
    for folder, changes in (("some", {}), ("none", dict(hidden_size=40, head_dim=10))):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**sizes | changes))
        model.save_pretrained(tmp_path / folder)
    base = opened(tmp_path / "some", fp8=True).model.get_base_model()
    kinds = {name.split(".")[-2] for name, m in base.named_modules() if isinstance(m, float8.FrozenFloat8Linear)}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj"}
    with pytest.raises(ModelUnusable, match="multiples of 16"):
        opened(tmp_path / "none", fp8=True)


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text", "phi3", "qwen3_5_text"])
def test_other_families_learn_too(family, float8, tmp_path):
    rail = opened(save_tiny(tmp_path / family, family), fp8=True, activation_checkpointing=True)
    before = rail.evaluate(batch())[0]
    go(rail, [0] * 4)
    assert rail.evaluate(batch())[0] < before


def test_a_restored_run_ends_with_the_same_bytes(float8, tiny, tmp_path):
    straight, first = (opened(tiny, fp8=True) for _ in range(2))
    go(straight, range(4))
    go(first, range(2))
    (tmp_path / "middle").mkdir()
    first.save(tmp_path / "middle")
    second = opened(tiny, fp8=True, seed=99)
    second.restore(tmp_path / "middle")
    go(second, range(2, 4))
    for name, rail in (("straight", straight), ("resumed", second)):
        (tmp_path / name).mkdir()
        rail.write_adapter(tmp_path / name)
    one, two = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("straight", "resumed"))
    assert one == two


def test_it_needs_a_card_that_can_and_torchao(tiny, monkeypatch):
    with pytest.raises(BadValue, match=r"capability 8\.9 or more, and there is none"):
        CpuRail().open(Job(tiny / "nowhere", recipe=recipe(fp8=True)))
    with pytest.raises(BadValue, match=r"capability 8\.9 or more, and this one has 8\.6"):
        requirements.check(TrainConfig(fp8=True), "cuda", (8, 6))
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    requirements.check(TrainConfig(), "cuda", (8, 6))
    for capability in ((8, 9), (12, 0)):
        with pytest.raises(PackageMissing, match="torchao") as caught:
            requirements.check(TrainConfig(fp8=True), "cuda", capability)
    assert "bp-cuda[fp8]" in caught.value.fix


@pytest.mark.gpu
def test_a_card_multiplies_what_is_emulated(float8, tiny):
    on_card, emulated = CudaRail(), EmulatingRail()
    for rail in (on_card, emulated):
        rail.open(Job(tiny, recipe=recipe(fp8=True, dtype="bfloat16"), dtype="bfloat16"))
    go(on_card, [0])  # 28 tokens: no multiple of 16
    go(emulated, [0])
    assert on_card.evaluate(batch())[0] == pytest.approx(emulated.evaluate(batch())[0], rel=1e-2)
