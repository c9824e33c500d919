"""The memory estimate against the real training step: traced on fake tensors, and measured where it is run."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from memory_trace import batch_of, trace
from tiny_models import recipe
from torch.profiler import ProfilerActivity, profile
from transformers import CONFIG_MAPPING, AutoConfig

from bp_core.choices import Mode
from bp_core.rail import Job
from bp_core.step_sizes import SHORT_SEGMENT, kept_weights
from bp_cuda.rail import CpuRail
from bp_plan.architecture import KNOWN, architecture
from bp_plan.memory import GIB, estimate, weights
from bp_plan.presets import PRESETS
from bp_plan.training_step import MemorySetup, MicroBatchSize

# Layers as wide as real ones are to each other, and few, so that a trace takes a second or two.
SMALL = dict(
    vocab_size=8000, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
    num_key_value_heads=2, head_dim=64, tie_word_embeddings=False, pad_token_id=None,
)  # fmt: skip
HYBRID = "qwen3_5_text"  # three layers of linear attention to each of full attention
CARD = MemorySetup("cuda", "bfloat16", 16)
SETUPS = [
    CARD,
    replace(CARD, recompute=True, accumulating=True),
    replace(CARD, device="cpu", dtype="float32", rank=64),
    replace(CARD, device="cpu", dropout=0.1, recompute=True),
]


def error(family, setup, lengths=(300, 200), layers=8, **shape):
    config = CONFIG_MAPPING[family](**SMALL | {"num_hidden_layers": layers} | shape)
    settings = recipe(
        rank=setup.rank, dropout=setup.dropout, dtype=setup.dtype, dora=setup.dora, target_modules=setup.targets,
        activation_checkpointing=setup.recompute, mode=setup.mode, optimizer=setup.optimizer, init=setup.init,
        attention=setup.attention,
    )  # fmt: skip
    traced = trace(config, settings, list(lengths), card=setup.device == "cuda", twice=setup.accumulating)
    load = batch_size_of(lengths)
    return estimate(architecture(config.to_dict()), setup, load).tensors / traced - 1


def batch_size_of(lengths):
    return MicroBatchSize(sum(lengths), sum(lengths) - len(lengths), max(lengths), sum(map(kept_weights, lengths)))


@pytest.mark.parametrize("family", sorted(KNOWN - {HYBRID}))
def test_each_known_family_is_estimated_as_traced(family):
    assert -0.02 < error(family, CARD) < 0.05


HYBRIDS = [
    CARD,
    replace(CARD, mode="qlora", recompute=True),
    replace(CARD, mode="full", optimizer="host-adamw-8bit", accumulating=True),
]


@pytest.mark.parametrize("setup", HYBRIDS, ids=lambda setup: f"{setup.mode} {setup.recompute}")
def test_layers_of_linear_attention_are_estimated_as_traced(setup):
    heads = dict(linear_num_key_heads=4, linear_num_value_heads=8, linear_key_head_dim=64, linear_value_head_dim=32)
    assert -0.02 < error(HYBRID, setup, (256,), 4, **heads) < 0.07


WAYS = [
    replace(CARD, mode="qlora"),
    replace(CARD, mode="lora-8bit", recompute=True, accumulating=True),
    replace(CARD, mode="full", optimizer="adamw-8bit", accumulating=True),
    replace(CARD, mode="full", recompute=True),
    replace(CARD, mode="full", optimizer="host-adamw-8bit", recompute=True, accumulating=True),
    replace(CARD, mode="full", device="cpu", dtype="auto"),
    replace(CARD, mode="full", device="cpu", dtype="float32"),
    replace(CARD, init="pissa"),
]


@pytest.mark.parametrize("setup", WAYS, ids=lambda setup: f"{setup.mode} {setup.device} {setup.dtype} {setup.init}")
def test_every_mode_is_estimated_as_traced(setup):
    assert -0.02 < error("llama", setup, layers=3) < 0.1


@pytest.mark.parametrize("accumulating", [False, True])
def test_of_a_tied_embedding_there_is_one_gradient_to_which_rows_are_added(accumulating):
    setup = replace(CARD, mode="full", recompute=True, accumulating=accumulating)
    assert -0.02 < error("llama", setup, (60,), 2, vocab_size=40_000, tie_word_embeddings=True) < 0.05


def test_moments_on_the_host_are_not_on_the_card():
    shape = architecture(PRESETS["llama-3.2-3b"].config)
    setup = replace(CARD, mode="full", recompute=True, accumulating=True, optimizer="paged-adamw-8bit")
    on_card, on_host = (
        estimate(shape, replace(setup, optimizer=kind), MicroBatchSize(1024, 1024))
        for kind in ("paged-adamw-8bit", "host-adamw-8bit")
    )
    assert on_card.total - on_host.total == pytest.approx(2 * shape.parameters, rel=0.01)
    assert on_host.total < 15 * GIB


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["qwen2.5-3b", "llama-3.2-3b", "smollm3-3b"])
def test_all_weights_of_3_billion_fit_16_gb_by_the_trace(preset):
    config = CONFIG_MAPPING[PRESETS[preset].config["model_type"]](**PRESETS[preset].config | {"pad_token_id": None})
    settings = recipe(mode="full", dtype="bfloat16", optimizer="host-adamw-8bit", activation_checkpointing=True)
    traced = trace(config, settings, [1024], card=True, twice=True)
    shape, setup = architecture(config.to_dict()), replace(CARD, mode="full", recompute=True, accumulating=True)
    context = estimate(shape, setup, MicroBatchSize(1024, 1024)).context
    assert traced + context <= 15 * GIB


def test_copies_of_a_large_adapter_are_all_there_in_the_end_though_layers_are_computed_again():
    assert -0.02 < error("llama", replace(CARD, rank=256, recompute=True, accumulating=True), (40, 20)) < 0.05


@pytest.mark.parametrize("changes", [{}, {"device": "cpu", "dtype": "float32"}, {"targets": "o_proj"}], ids=str)
def test_what_8_bit_layers_keep_goes_by_their_inputs(changes):
    assert -0.02 < error("llama", replace(CARD, mode="lora-8bit", **changes), layers=3, intermediate_size=2816) < 0.05


@pytest.mark.parametrize("mode", ["qlora", "lora-8bit"])
def test_quantised_weights_take_what_is_said(mode, tiny_llama):
    rail = CpuRail()
    rail.open(Job(tiny_llama, recipe=recipe(mode=mode), dtype="bfloat16"))
    base = rail.model.get_base_model()
    tensors = [p for name, p in base.named_parameters() if "lora_" not in name]
    for module in base.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        tensors += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code] if state else []
        tensors += [module.state.SCB] if getattr(module, "state", None) and module.state.SCB is not None else []
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    setup = MemorySetup("cpu", "bfloat16", 4, mode=mode)
    shape = architecture(AutoConfig.from_pretrained(tiny_llama).to_dict())
    embedding = 2 * shape.embedding
    assert weights(shape, setup) - embedding == pytest.approx(sum(storages.values()) - embedding, rel=0.005)


@pytest.mark.parametrize("setup", SETUPS[1:])
def test_every_way_of_training_is_estimated_as_traced(setup):
    assert -0.02 < error("llama", setup) < 0.1


@pytest.mark.parametrize("setup", [CARD, replace(CARD, recompute=True), replace(CARD, device="cpu", dtype="float32")])
def test_plain_products_keep_their_weights(setup):
    eager = replace(setup, attention="eager")
    assert -0.02 < error("llama", eager, (1100,), layers=3) < 0.12
    shape, load = architecture(PRESETS["llama-3.2-1b"].config), MicroBatchSize(4096, 64)
    assert estimate(shape, eager, load).total > 1.2 * estimate(shape, setup, load).total


def test_what_is_adapted_and_how_is_counted():
    assert -0.02 < error("llama", replace(CARD, targets="q_proj,v_proj")) < 0.1
    assert -0.05 < error("llama", replace(CARD, dora=True)) < 0.1


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_trace_is_what_the_real_step_allocates(mode, tiny_llama):
    settings = recipe(rank=8, dtype="float32", mode=mode)
    rail = CpuRail()
    rail.open(Job(tiny_llama, recipe=settings, dtype="float32"))
    rail.accumulate(batch_of([9]), 1.0)
    rail.update(1e-3) if mode == "full" else rail.discard()  # a second update of all weights is what is traced
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as watched:
        rail.accumulate(batch_of([60, 40]), 1.0)
        rail.update(1e-3)
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    kept = [*rail.model.parameters(), *(value for state in rail.optimizer.state.values() for value in state.values())]
    measured = most + sum(tensor.nbytes for tensor in kept)
    config = AutoConfig.from_pretrained(tiny_llama)
    assert trace(config, settings, [60, 40], card=False, twice=False) == pytest.approx(measured, rel=0.01)


@given(
    tokens=st.integers(1, 10_000), more=st.integers(0, 10_000), rank=st.integers(1, 300), recompute=st.booleans(),
    half=st.booleans(), accumulating=st.booleans(), mode=st.sampled_from(get_args(Mode)),
)  # fmt: skip
def test_more_never_needs_less(tokens, more, rank, recompute, half, accumulating, mode):
    shape = architecture(PRESETS["llama-3.2-1b"].config)
    setup = MemorySetup(
        "cpu", "bfloat16" if half else "float32", rank, recompute=recompute, accumulating=accumulating, mode=mode
    )
    need = estimate(shape, setup, MicroBatchSize(tokens, tokens)).total
    # Of one length each: above 512 tokens the attention is computed another way, which keeps less.
    same = MicroBatchSize(tokens + more, tokens, longest=tokens)
    assert need <= estimate(shape, setup, same).total
    assert need <= estimate(shape, setup, replace(same, targets=tokens + more)).total
    assume((tokens <= SHORT_SEGMENT) == (tokens + more <= SHORT_SEGMENT))
    assert need <= estimate(shape, setup, MicroBatchSize(tokens + more, tokens)).total
    assert need <= estimate(shape, setup, MicroBatchSize(tokens + more, tokens + more)).total
    assert need <= estimate(shape, replace(setup, rank=rank + more), MicroBatchSize(tokens, tokens)).total
    assert need <= estimate(shape, replace(setup, accumulating=True), MicroBatchSize(tokens, tokens)).total
