"""Tiny random models of each family, recipes and batches for tests."""

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from bp_core.examples import Batch
from bp_core.rail import Job
from bp_core.recipe import Recipe
from bp_cuda.rail import CpuRail

torch.set_num_threads(1)

SIZES = dict(
    vocab_size=300,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=256,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
EXTRA = {
    "gpt_oss": dict(num_local_experts=4),
    "bloom": dict(n_layer=2, n_head=4),
    "mistral": dict(sliding_window=6),
    "gemma2": dict(sliding_window=6, query_pre_attn_scalar=16),
    "gemma3_text": dict(sliding_window=6, query_pre_attn_scalar=16),
    "qwen3_5_text": dict(
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
    ),
}
FAMILIES = [
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma2",
    "gemma3_text",
    "phi3",
    "smollm3",
    "qwen3_5_text",
    "gpt_oss",
    "bloom",
]


def save_tiny(folder, family="llama"):
    torch.manual_seed(7)
    config = CONFIG_MAPPING[family](**SIZES | EXTRA.get(family, {}))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # larger than the usual start, so that differences show
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    return folder


def recipe(**changes):
    values = dict(
        model="tiny",
        output="out",
        backend="cpu",
        steps=4,
        rank=4,
        alpha=8.0,
        dropout=0.0,
        learning_rate=1e-2,
        batch_size=4,
        micro_batch=4,
        max_length=64,
        packing=False,
        train_on="assistant",
        columns="",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=3,
        dtype="float32",
        checkpoint_every=2,
        keep_checkpoints=2,
    )
    return Recipe(**values | changes)


def batch(lengths=(9, 14, 5), seed=0):
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    trained = rng.random(total) < 0.6
    starts = np.cumsum([0, *lengths[:-1]])
    trained[starts] = False
    trained[starts + 1] = True
    return Batch(rng.integers(3, 300, total).astype(np.int32), trained, np.array(lengths, dtype=np.int32))


def opened(folder, **changes):
    rail = CpuRail()
    rail.open(Job(folder, recipe=recipe(**changes), dtype=changes.get("dtype", "float32")))
    return rail
