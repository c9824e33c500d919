"""The tensors of a GGUF under their Hugging Face names and in Hugging Face's layout, one at a time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType

from bp_core.errors import UnsupportedArchitecture

from . import architectures
from .reader import GgufFile

Config = Mapping[str, Any]

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_TABLES = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")  # config.json says them
_BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
# What an architecture calls otherwise.
_OWN: Mapping[str, Mapping[str, str]] = {
    "gemma2": {"ffn_norm": "pre_feedforward_layernorm"},
    "gemma3": {"ffn_norm": "pre_feedforward_layernorm"},
    "phi3": {"ffn_up": "mlp.gate_up_proj"},
    "qwen35": {
        "attn_qkv": "linear_attn.in_proj_qkv",
        "attn_gate": "linear_attn.in_proj_z",
        "ssm_alpha": "linear_attn.in_proj_a",
        "ssm_beta": "linear_attn.in_proj_b",
        "ssm_conv1d": "linear_attn.conv1d",
        "ssm_norm": "linear_attn.norm",
        "ssm_out": "linear_attn.out_proj",
    },
}
_WITHOUT_SUFFIX = {"ssm_a": "linear_attn.A_log", "ssm_dt.bias": "linear_attn.dt_bias"}
_FLOATS: Mapping[GGMLQuantizationType, np.dtype[Any]] = {
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
    GGMLQuantizationType.BF16: np.dtype(ml_dtypes.bfloat16),
}


class UnpackedTensors:
    """The weights of a GGUF as a model of transformers has them; quantised ones are dequantised to float16.

    Each is exact where the file holds floats: in the dtype of most of its matrices where converting it again gives the
    same bits, in float32 elsewhere.
    """

    def __init__(self, gguf: GgufFile, config: Config) -> None:
        self._gguf = gguf
        self._family, self._config = architectures.find(config)
        self._names = {_name(name, gguf): name for name in gguf.tensors if name not in _TABLES}
        self._dtype = _usual_dtype(gguf)

    @property
    def usual_dtype(self) -> np.dtype[Any]:
        return self._dtype

    def names(self) -> Iterable[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self._gguf.tensors[self._names[name]].shape
        if name.endswith("conv1d.weight"):
            return shape[0], 1, shape[1]
        return shape

    def dtype(self, name: str) -> np.dtype[Any]:
        tensor = self._gguf.tensors[self._names[name]]
        if tensor.type not in _FLOATS:
            return self._dtype
        if len(tensor.shape) > 1 and not name.endswith("conv1d.weight"):
            return _FLOATS[tensor.type]
        return self._dtype if self._is_exact(name) else np.dtype(np.float32)

    def array(self, name: str) -> np.ndarray:
        values = self._plain(name, self._gguf.array(self._names[name]))
        return values.astype(self.dtype(name)).reshape(self.shape(name))

    def _is_exact(self, name: str) -> bool:
        """Whether a small tensor can be kept in the usual dtype: converted again it has the same bits."""
        stored = self._gguf.array(self._names[name])
        kept = self._plain(name, stored).astype(self._dtype)
        again = self._family.arrange(name, kept.reshape(self.shape(name)), self._config)
        return np.array_equal(again.astype(np.float32).reshape(stored.shape), stored)

    def _plain(self, name: str, stored: np.ndarray) -> np.ndarray:
        """A tensor as Hugging Face keeps it, of llama.cpp's, float32 of the same shape."""
        if name.endswith(".A_log"):  # llama.cpp keeps the decay as it is used, minus its exponential
            return self._reordered(name.replace(".A_log", ".dt_bias"), np.log(-stored))
        if name.endswith("norm.weight"):  # Gemma and Qwen 3.5 keep what is added to 1
            shift = self._family.arrange(name, np.zeros_like(stored), self._config)
            return np.asarray(stored - shift)
        return self._reordered(name, stored)

    def _reordered(self, name: str, stored: np.ndarray) -> np.ndarray:
        """Rows and columns back in Hugging Face's order: seen by what `arrange` makes of their numbers."""
        axes = (0, 1) if stored.ndim > 1 else (0,)
        plain = stored
        for axis in axes:
            order = self._order(name, stored.shape, axis)
            if order is not None:
                plain = np.take(plain, np.argsort(order), axis)
        return plain

    def _order(self, name: str, shape: tuple[int, ...], axis: int) -> np.ndarray | None:
        """Which of Hugging Face's rows (axis 0) or columns (1) stands where; None if they stand as they are."""
        is_output = name.endswith(".linear_attn.out_proj.weight")  # the one tensor whose columns are reordered
        if axis != int(is_output):
            return None
        numbers = np.arange(shape[axis], dtype=np.float64)
        probe = numbers.reshape((1, -1) if axis else (-1,) + (1,) * (len(shape) - 1))
        order = self._family.arrange(name, probe, self._config).reshape(-1).astype(np.int64)
        return None if np.array_equal(order, np.arange(len(order))) else order


def dequantized_types(gguf: GgufFile) -> list[str]:
    """The number formats of a file that are not floats, the most frequent first."""
    types = Counter(tensor.type.name for tensor in gguf.tensors.values() if tensor.type not in _FLOATS)
    return [name for name, _ in types.most_common()]


def _usual_dtype(gguf: GgufFile) -> np.dtype[Any]:
    """That of most matrices; float16 where most are quantised."""
    types = Counter(tensor.type for tensor in gguf.tensors.values() if len(tensor.shape) > 1)
    most = types.most_common(1)[0][0] if types else GGMLQuantizationType.F16
    return _FLOATS.get(most, np.dtype(np.float16))


def _name(name: str, gguf: GgufFile) -> str:
    if name in _TOP:
        return _TOP[name]
    match = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
    part, _, suffix = match[2].partition(".") if match else ("", "", "")
    layer = f"model.layers.{match[1]}" if match else ""
    if match and match[2] in _WITHOUT_SUFFIX:
        return f"{layer}.{_WITHOUT_SUFFIX[match[2]]}"
    parts = {**_BLOCK, **_OWN.get(gguf.field("general.architecture"), {})}
    if part not in parts or suffix not in ("weight", "bias"):
        raise UnsupportedArchitecture(f"the tensor {name} cannot be unpacked.", where=str(gguf.path))
    return f"{layer}.{parts[part]}.{suffix}"
