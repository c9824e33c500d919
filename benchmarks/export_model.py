"""A random model of one billion parameters (Llama-3.2-1B's shape, SmolLM2's words) and a LoRA adapter on it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from backpropagate.models import locate
from bp_export.weights import safetensors_file

SMALL = "--small" in sys.argv  # a hundredth of the size, to try a benchmark with
HIDDEN, FEED, LAYERS, HEADS, KV_HEADS = (256, 512, 2, 4, 1) if SMALL else (2048, 8192, 16, 32, 8)
WORDS, RANK = 49152, 16
SHARDS = 2
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_act": "silu",
    "hidden_size": HIDDEN, "intermediate_size": FEED, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "head_dim": HIDDEN // HEADS, "vocab_size": WORDS, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "max_position_embeddings": 8192, "tie_word_embeddings": True, "attention_bias": False,
    "mlp_bias": False, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LINEAR = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (HIDDEN // 4, HIDDEN),
    "self_attn.v_proj": (HIDDEN // 4, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (FEED, HIDDEN), "mlp.up_proj": (FEED, HIDDEN), "mlp.down_proj": (HIDDEN, FEED),
}  # fmt: skip
ADAPTER = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none",
    "target_modules": [name.split(".")[1] for name in LINEAR], "inference_mode": True,
}  # fmt: skip


class Random:
    """Tensors that are made up when they are read; norms are one."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], dtype: type) -> None:
        self.shapes, self.kind = shapes, np.dtype(dtype)

    def names(self) -> list[str]:
        return list(self.shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def dtype(self, name: str) -> np.dtype:
        return self.kind

    def array(self, name: str) -> np.ndarray:
        shape = self.shapes[name]
        if len(shape) == 1:
            return np.ones(shape, self.kind)
        random = np.random.default_rng(list(self.shapes).index(name))
        return (random.standard_normal(shape, np.float32) * np.float32(0.02)).astype(self.kind)


def write(folder: Path) -> tuple[Path, Path]:
    """The folders of the base and of the adapter."""
    base, adapter = folder / "base", folder / "adapter"
    base.mkdir(parents=True)
    adapter.mkdir()
    _write_shards(base, Random(dict(_base_shapes()), ml_dtypes.bfloat16))
    (base / "config.json").write_text(json.dumps(CONFIG))
    words = locate.locate("smollm2-135m", lambda progress: None)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(words / name, base / name)
    pairs = Random(dict(_adapter_shapes()), np.float32)
    list(safetensors_file.write(adapter / "adapter_model.safetensors", pairs, pairs.names()))
    (adapter / "adapter_config.json").write_text(json.dumps(ADAPTER | {"base_model_name_or_path": str(base)}))
    return base, adapter


def _write_shards(base: Path, source: Random) -> None:
    names = source.names()
    places = {}
    for number in range(SHARDS):
        part = names[number * len(names) // SHARDS : (number + 1) * len(names) // SHARDS]
        file = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        places |= dict.fromkeys(safetensors_file.write(base / file, source, part), file)
    size = sum(safetensors_file.size(source, name) for name in names)
    (base / safetensors_file.INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": places}))


def _base_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (WORDS, HIDDEN)
    for layer in range(LAYERS):
        for name, shape in LINEAR.items():
            yield f"model.layers.{layer}.{name}.weight", shape
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{name}.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)


def _adapter_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer in range(LAYERS):
        for name, (out, into) in LINEAR.items():
            module = f"base_model.model.model.layers.{layer}.{name}"
            yield f"{module}.lora_A.weight", (RANK, into)
            yield f"{module}.lora_B.weight", (out, RANK)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
