"""A tiny random llama in Hugging Face's layout, recipes and batches for tests; no torch is needed."""

import json

import numpy as np
from safetensors.numpy import save_file

from bp_core.examples import Batch
from bp_core.rail import Job
from bp_core.recipe import Recipe
from bp_mlx.rail import MlxRail

CONFIG = dict(
    architectures=["LlamaForCausalLM"],
    model_type="llama",
    vocab_size=300,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-6,
    rope_theta=10000.0,
    tie_word_embeddings=True,
)


def save(folder, **changes):
    """Write the model; `changes` are of its config."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(7)
    weights = {"model.embed_tokens.weight": random.normal(0, 0.08, (300, 64))}
    for n in range((CONFIG | changes)["num_hidden_layers"]):
        for name, shape in {
            "self_attn.q_proj": (64, 64),
            "self_attn.k_proj": (32, 64),
            "self_attn.v_proj": (32, 64),
            "self_attn.o_proj": (64, 64),
            "mlp.gate_proj": (96, 64),
            "mlp.up_proj": (96, 64),
            "mlp.down_proj": (64, 96),
        }.items():
            weights[f"model.layers.{n}.{name}.weight"] = random.normal(0, 0.08, shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{n}.{name}.weight"] = np.ones(64)
    weights["model.norm.weight"] = np.ones(64)
    save_file({name: value.astype(np.float32) for name, value in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | changes), encoding="utf-8")
    return folder


def recipe(**changes):
    values = dict(
        model="tiny",
        output="out",
        backend="mlx",
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


def batch(lengths=(9, 14, 5), seed=0, **more):
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    trained = rng.random(total) < 0.6
    starts = np.cumsum([0, *lengths[:-1]])
    trained[starts] = False
    trained[starts + 1] = True
    return Batch(rng.integers(3, 300, total).astype(np.int32), trained, np.array(lengths, dtype=np.int32), **more)


def opened(folder, adapter=None, **changes):
    rail = MlxRail()
    rail.open(Job(folder, adapter=adapter, recipe=recipe(**changes), dtype=changes.get("dtype", "float32")))
    return rail


def go(rail, seeds, rate=5e-3):
    """Some steps; their losses."""
    losses = []
    for seed in seeds:
        losses.append(rail.accumulate(batch(seed=seed), 0.05))
        rail.update(rate)
    return losses
