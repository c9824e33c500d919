"""Hugging Face weights → GGUF, in two passes: first every name and size, then one tensor after another."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, LlamaFileType, RopeScalingType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import quant_shape_to_byte_shape, quantize
from gguf.tensor_mapping import get_tensor_name_map

from bp_core.errors import ModelUnusable, UnsupportedArchitecture
from bp_core.events import Notify, Progress

from . import families
from .families import Config, Family
from .hf_files import read_json
from .vocab import Vocabulary
from .weights import Source

_TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
_NUMPY = {
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
    GGMLQuantizationType.BF16: np.dtype(ml_dtypes.bfloat16),
}
_ROPE_FACTORS = "rope_freqs.weight"
_DERIVED = re.compile(r".*rotary_emb\.inv_freq|.*attn\.(masked_)?bias")  # buffers that some old files carry


@dataclass(frozen=True)
class Planned:
    """One tensor of the GGUF: which tensor of the source it comes from, and how it is stored."""

    name: str
    source: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType

    @property
    def stored(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype of the stored array: packed formats are rows of bytes."""
        if self.type in _NUMPY:
            return self.shape, _NUMPY[self.type]
        return tuple(quant_shape_to_byte_shape(self.shape, self.type)), np.dtype(np.uint8)


class Converter:
    """One model on its way to GGUF: the plan is complete, and every refusal made, before the first byte is written."""

    def __init__(self, source: Source, folder: Path, type_: str = "f16") -> None:
        self.config: Config = read_json(folder / "config.json")
        self.family: Family = families.find(self.config)
        self.source = source
        self.type = type_
        try:
            self.plan = list(self._plan())
            self._settings = _settings(self.config, self.family)
        except KeyError as error:
            raise ModelUnusable(f"config.json does not say {error}.", where=str(folder)) from error

    @property
    def vocabulary_size(self) -> int:
        """Rows of the token embedding."""
        return next(planned.shape[0] for planned in self.plan if planned.name == "token_embd.weight")

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in (planned.stored for planned in self.plan))

    def array(self, planned: Planned) -> np.ndarray:
        """The values of one planned tensor, in the order llama.cpp expects, not yet in their stored format."""
        if planned.name == _ROPE_FACTORS:
            return families.rope_factors(self.config)
        values = self.source.array(planned.source)
        if self.family.interleaved and (heads := _heads(planned.name, self.config)):
            return families.interleave(values, heads)
        return values

    def write(self, target: Path, vocabulary: Vocabulary, name: str, notify: Notify | None = None) -> None:
        """Write the GGUF file. `name` is the model's name in it. Memory: about one tensor, in float32."""
        writer = GGUFWriter(target, self.family.architecture)
        try:
            self._add_fields(writer, vocabulary, name)
            for planned in self.plan:
                shape, dtype = planned.stored
                writer.add_tensor_info(planned.name, shape, dtype, int(np.prod(shape)) * dtype.itemsize, planned.type)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for done, planned in enumerate(self.plan, 1):
                writer.write_tensor_data(stored(self.array(planned), planned))
                if notify:
                    notify(Progress("convert", done, len(self.plan)))
        finally:
            writer.close()

    def _plan(self) -> Iterator[Planned]:
        names = get_tensor_name_map(_model_arch(self.family), self.config["num_hidden_layers"])
        tied = bool(self.config.get("tie_word_embeddings"))
        found = set()
        for source in self.source.names():
            if (tied and source == "lm_head.weight") or _DERIVED.fullmatch(source):
                continue
            name = names.get_name(source, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise UnsupportedArchitecture(f"the tensor {source} has no place in a {self.family.architecture} GGUF.")
            found.add(name)
            yield self._planned(name, source)
        for name in ("token_embd.weight", "output_norm.weight", *(() if tied else ("output.weight",))):
            if name not in found:
                raise ModelUnusable(f"the weights lack what GGUF calls {name}.")
        if families.rope(self.config)["rope_type"] == "llama3":
            shape = (families.head_size(self.config) // 2,)
            yield Planned(_ROPE_FACTORS, "", shape, GGMLQuantizationType.F32)

    def _planned(self, name: str, source: str) -> Planned:
        shape = self.source.shape(source)
        type_ = _TYPES[self.type][0]
        if len(shape) == 1:
            type_ = GGMLQuantizationType.F32  # norms and biases: small, and llama.cpp wants them exact
        elif shape[-1] % GGML_QUANT_SIZES[type_][0]:
            type_ = GGMLQuantizationType.F16  # rows that are not made of whole blocks
        return Planned(name, source, shape, type_)

    def _add_fields(self, writer: GGUFWriter, vocabulary: Vocabulary, name: str) -> None:
        logging.getLogger("gguf").setLevel(logging.ERROR)
        writer.add_type("model")
        writer.add_name(name)
        writer.add_size_label(_size_label(sum(int(np.prod(planned.shape)) for planned in self.plan)))
        writer.add_file_type(_TYPES[self.type][1])
        writer.add_quantization_version(2)
        for key, value in self._settings.items():
            getattr(writer, f"add_{key}")(value)
        writer.add_vocab_size(self.vocabulary_size)
        vocabulary.add_to(writer)


def _model_arch(family: Family) -> Any:
    return next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == family.architecture)


def _settings(config: Config, family: Family) -> Mapping[str, Any]:
    """The fields that every family has, by the name of the GGUFWriter method that adds them."""
    rope = families.rope(config)
    size = families.head_size(config)
    values = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "head_count": config["num_attention_heads"],
        "head_count_kv": config.get("num_key_value_heads") or config["num_attention_heads"],
        "layer_norm_rms_eps": config["rms_norm_eps"],
        "rope_freq_base": float(rope["rope_theta"]),
        "rope_dimension_count": size,
        "key_length": size,
        "value_length": size,
    }
    if rope["rope_type"] == "linear":
        values |= {"rope_scaling_type": RopeScalingType.LINEAR, "rope_scaling_factor": float(rope["factor"])}
    return values


def _heads(name: str, config: Config) -> int | None:
    if ".attn_q." in name:
        return int(config["num_attention_heads"])
    if ".attn_k." in name:
        return int(config.get("num_key_value_heads") or config["num_attention_heads"])
    return None


def stored(values: np.ndarray, planned: Planned) -> np.ndarray:
    """The values in their stored format. Raises ModelUnusable if that cannot hold them."""
    shape, dtype = planned.stored
    if planned.type in _NUMPY:
        packed = np.ascontiguousarray(values, dtype) if values.dtype == dtype else _cast(values, dtype, planned)
    else:
        packed = quantize(values.astype(np.float32), planned.type)
    assert packed.shape == shape, f"{planned.name}: {packed.shape} is not {shape}"
    return packed


def _cast(values: np.ndarray, dtype: np.dtype[Any], planned: Planned) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(values.astype(dtype))
    if dtype == np.float16 and not np.isfinite(cast).all():
        raise ModelUnusable(
            f"{planned.source} has values that float16 cannot hold.", fix="Export with --format merged."
        )
    return cast


def _size_label(parameters: int) -> str:
    for unit, letter in ((10**9, "B"), (10**6, "M")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{letter}"
    return f"{parameters / 1000:.3g}K"
