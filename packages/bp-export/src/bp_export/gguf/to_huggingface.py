"""Convert a GGUF to a Hugging Face folder in float16, so that it can be trained."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import TokenType
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from bp_core import folders
from bp_core.errors import GgufUnusable, UnsupportedArchitecture
from bp_core.events import Notify, Progress

from ..output_paths import require_free, require_space
from ..weights import safetensors_file
from .reader import GgufFile
from .tensor_layout import deinterleave

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_PRE = {"smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]}


class DequantizedWeights:
    """The tensors of a llama GGUF by Hugging Face name, dequantised to float16 one at a time."""

    def __init__(self, gguf: GgufFile) -> None:
        self._gguf = gguf
        self._names = {_hf_name(name, gguf): name for name in gguf.tensors}
        heads = _heads(gguf)
        self._heads = {"attn_q": heads["num_attention_heads"], "attn_k": heads["num_key_value_heads"]}

    def names(self) -> Iterable[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return self._gguf.tensors[self._names[name]].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.float16)

    def array(self, name: str) -> np.ndarray:
        stored = self._names[name]
        values = self._gguf.array(stored).astype(np.float16)
        part = stored.split(".")[-2]
        return deinterleave(values, self._heads[part]) if part in self._heads else values


def unpack_gguf(source: Path, folder: Path, notify: Notify | None = None) -> None:
    """Write the Hugging Face folder `folder`, which must not exist, from a GGUF of the llama architecture.

    Raises GgufUnusable, UnsupportedArchitecture, DiskFull, OutputUnusable.
    """
    gguf = GgufFile(source)
    if gguf.field("general.architecture") != "llama":
        raise UnsupportedArchitecture(
            f"cannot convert a {gguf.field('general.architecture')} model.", where=str(source)
        )
    require_free(folder)
    tokenizer, tensors = _tokenizer(gguf), DequantizedWeights(gguf)
    require_space(folder, sum(safetensors_file.size(tensors, name) for name in tensors.names()))
    with folders.new_folder(folder) as draft:
        for name, value in _settings(gguf).items():
            folders.write_json(draft / name, value)
        tokenizer.save(str(draft / "tokenizer.json"), pretty=False)
        for done, _ in enumerate(safetensors_file.write(draft / safetensors_file.SINGLE, tensors, tensors.names()), 1):
            if notify:
                notify(Progress("unpack", done, len(gguf.tensors)))


def _hf_name(name: str, gguf: GgufFile) -> str:
    if name in _TOP:
        return _TOP[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if not match or match[2] not in _BLOCK:
        raise UnsupportedArchitecture(f"the tensor {name} cannot be converted.", where=str(gguf.path))
    return f"model.layers.{match[1]}.{_BLOCK[match[2]]}.{match[3]}"


def _settings(gguf: GgufFile) -> dict[str, dict[str, Any]]:
    tokens = gguf.field("tokenizer.ggml.tokens")
    ids = {
        key: gguf.fields[f"tokenizer.ggml.{name}_token_id"]
        for key, name in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"))
        if f"tokenizer.ggml.{name}_token_id" in gguf.fields
    }
    special = {f"{key}_token_id": ids[key] for key in ("bos", "eos", "pad") if key in ids}
    return {
        "config.json": _config(gguf) | special,
        "generation_config.json": special,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{f"{key}_token": tokens[number] for key, number in ids.items()},
            "model_max_length": gguf.field("llama.context_length"),
            "clean_up_tokenization_spaces": False,
            "chat_template": gguf.fields.get("tokenizer.chat_template"),
        },
    }


def _config(gguf: GgufFile) -> dict[str, Any]:
    if any(key.startswith("llama.rope.scaling") for key in gguf.fields):
        raise UnsupportedArchitecture("scaled rotary embeddings cannot be converted.", where=str(gguf.path))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": gguf.field("llama.embedding_length"),
        "intermediate_size": gguf.field("llama.feed_forward_length"),
        "num_hidden_layers": gguf.field("llama.block_count"),
        **_heads(gguf),
        "max_position_embeddings": gguf.field("llama.context_length"),
        "rms_norm_eps": _rounded(gguf.field("llama.attention.layer_norm_rms_epsilon")),
        "rope_theta": _rounded(gguf.fields.get("llama.rope.freq_base", 10000.0)),
        "vocab_size": len(gguf.field("tokenizer.ggml.tokens")),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "attention_bias": "blk.0.attn_q.bias" in gguf.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in gguf.tensors,
        "hidden_act": "silu",
        "torch_dtype": "float16",
    }


def _heads(gguf: GgufFile) -> dict[str, int]:
    heads = gguf.field("llama.attention.head_count")
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": gguf.fields.get("llama.attention.head_count_kv", heads),
        "head_dim": gguf.fields.get("llama.attention.key_length") or gguf.field("llama.embedding_length") // heads,
    }


def _rounded(value: float) -> float:
    """A float32 as the decimal that was meant: 9.99999974e-06 is 1e-05."""
    return float(f"{value:.6g}")


def _tokenizer(gguf: GgufFile) -> Tokenizer:
    if gguf.field("tokenizer.ggml.model") != "gpt2" or gguf.field("tokenizer.ggml.pre") not in _PRE:
        raise UnsupportedArchitecture("its tokenizer cannot be converted.", where=str(gguf.path))
    tokens, types = gguf.field("tokenizer.ggml.tokens"), gguf.field("tokenizer.ggml.token_type")
    vocabulary = {text: number for number, text in enumerate(tokens)}
    merges = [tuple(text.split(" ", 1)) for text in gguf.field("tokenizer.ggml.merges")]
    for left, right in merges:
        if not {left, right, left + right} <= vocabulary.keys():
            raise GgufUnusable(f"its merge {left!r} + {right!r} is not in the vocabulary.", where=str(gguf.path))
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_PRE[gguf.field("tokenizer.ggml.pre")])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_added(tokens, types, TokenType.CONTROL))
    tokenizer.add_tokens(_added(tokens, types, TokenType.USER_DEFINED))
    return tokenizer


def _added(tokens: list[str], types: list[int], kind: TokenType) -> list[AddedToken]:
    special = kind == TokenType.CONTROL
    return [
        AddedToken(text, special=special, normalized=False)
        for text, type_ in zip(tokens, types, strict=True)
        if type_ == kind
    ]
