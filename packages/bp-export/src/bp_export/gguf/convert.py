"""Hugging Face weights → GGUF: first plan every name and size, then write one tensor after another."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import quant_shape_to_byte_shape, quantize
from gguf.tensor_mapping import get_tensor_name_map

from bp_core.adapter_keys import text_name
from bp_core.errors import AdapterUnusable, ModelUnusable, UnsupportedArchitecture
from bp_core.events import Notify
from bp_core.model_files import read_json

from ..progress import tracked
from ..weights.merged_weights import MergedWeights
from ..weights.safetensors_file import Source, require_finite
from ..weights.tying import HEAD, is_tied
from . import architectures, rope
from .architectures import Family
from .rope import Config
from .vocabulary import Vocabulary

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
_HEAD = "output.weight"
_HEAD_ALONE = "llama.cpp reads no head apart from the embedding for {}, and this model has one."
_AT_ONCE = 1 << 20  # values converted at once; a float32 copy of a whole embedding would take too much memory


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the GGUF: its name, the source tensor it is made from, and its shape and number format."""

    name: str
    source: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType

    @property
    def stored(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype of the stored array; quantised formats are rows of bytes."""
        if self.type in _NUMPY:
            return self.shape, _NUMPY[self.type]
        return tuple(quant_shape_to_byte_shape(self.shape, self.type)), np.dtype(np.uint8)


class Converter:
    """Converts a model to GGUF. Unsupported models are refused here, before anything is written."""

    def __init__(self, source: Source, folder: Path, type_: str = "f16") -> None:
        try:
            written = read_json(folder / "config.json")
            self.family, self.config = architectures.find(written)
            self.source = source
            self.tied = source.tied if isinstance(source, MergedWeights) else is_tied(written, source)
            self.type = type_
            self._tables = rope.tables(self.config)
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

    def array(self, planned: PlannedTensor) -> np.ndarray:
        """The values of a planned tensor in llama.cpp's layout, not yet in their stored format."""
        if planned.name in self._tables:
            return self._tables[planned.name]
        return self._arranged(planned, self.source.array(planned.source))

    def change(self, planned: PlannedTensor) -> tuple[np.ndarray, np.ndarray] | None:
        """A planned tensor before and after the adapter, float32, in llama.cpp's layout; None if it is unchanged."""
        if not isinstance(self.source, MergedWeights) or not self.source.changes(planned.source):
            return None
        before = self.source.before(planned.source)
        if before.shape != self.source.shape(planned.source):  # a vocabulary that was resized
            return None
        before = self._arranged(planned, before).astype(np.float32)
        return before, self.array(planned).astype(np.float32)

    def _arranged(self, planned: PlannedTensor, values: np.ndarray) -> np.ndarray:
        name = text_name(planned.source)
        return self.family.arrange(name, values, self.config).reshape(planned.shape)

    def write(self, target: Path, vocabulary: Vocabulary, name: str, notify: Notify | None = None) -> None:
        """Write the GGUF file, with `name` as the model's name. Needs memory for about one tensor."""
        writer = GGUFWriter(target, self.family.architecture)
        try:
            self._add_fields(writer, vocabulary, name)
            for planned in self.plan:
                shape, dtype = planned.stored
                writer.add_tensor_info(planned.name, shape, dtype, int(np.prod(shape)) * dtype.itemsize, planned.type)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for planned in tracked(self.plan, "convert", notify):
                writer.write_tensor_data(stored(self.array(planned), planned))
        finally:
            writer.close()

    def _plan(self) -> Iterator[PlannedTensor]:
        for name, table in self._tables.items():
            yield PlannedTensor(name, "", table.shape, GGMLQuantizationType.F32)
        arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == self.family.architecture)
        names = get_tensor_name_map(arch, self.config["num_hidden_layers"])
        missing = {"token_embd.weight", "output_norm.weight"}
        if not self.tied:
            missing.add(_HEAD)
        for source in self.source.names():
            plain = text_name(source).replace("dt_bias", "dt_proj.bias")
            if architectures.unused(plain):
                self._refuse_if_trained(source)
                continue
            if self.tied and plain == HEAD:
                continue
            name = names.get_name(plain, try_suffixes=(".weight", ".bias"))
            if name == _HEAD and self.family.always_tied:
                raise UnsupportedArchitecture(_HEAD_ALONE.format(self.family.architecture))
            if name is None:
                raise UnsupportedArchitecture(f"a {self.family.architecture} GGUF has no tensor for {source}.")
            missing.discard(name)
            yield self._planned(name, source)
        if missing:
            raise ModelUnusable(f"these weights are missing (names in GGUF): {', '.join(sorted(missing))}.")

    def _refuse_if_trained(self, source: str) -> None:
        """Raise AdapterUnusable if an adapter trained a weight that a GGUF of the text model leaves out."""
        merged = self.source
        if not isinstance(merged, MergedWeights) or not merged.changes(source):
            return
        if not np.array_equal(merged.before(source).astype(np.float32), merged.array(source)):
            message = f"it changes {source}, which is no part of the text model that a GGUF holds."
            raise AdapterUnusable(message, fix="Export the whole model with --format merged.")

    def _planned(self, name: str, source: str) -> PlannedTensor:
        shape = self.source.shape(source)
        if len(shape) == 3:  # a depthwise convolution
            shape = (shape[0], shape[2])
        type_ = _TYPES[self.type][0]
        if len(shape) == 1 or name.endswith("ssm_conv1d.weight"):
            type_ = GGMLQuantizationType.F32
        elif shape[-1] % GGML_QUANT_SIZES[type_][0]:
            type_ = GGMLQuantizationType.F16  # rows that are not a multiple of the block size
        return PlannedTensor(name, source, shape, type_)

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


def _settings(config: Config, family: Family) -> Mapping[str, Any]:
    """The GGUF fields of this model, by the name of the GGUFWriter method that adds them."""
    size = rope.head_size(config)
    return {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "head_count": config["num_attention_heads"],
        "head_count_kv": config.get("num_key_value_heads") or config["num_attention_heads"],
        "layer_norm_rms_eps": config["rms_norm_eps"],
        "rope_freq_base": float(rope.rope(config)["rope_theta"]),
        "rope_dimension_count": rope.rotated(config),
        "key_length": size,
        "value_length": size,
        **rope.scaling(config),
        **family.fields(config),
    }


def stored(values: np.ndarray, planned: PlannedTensor) -> np.ndarray:
    """The values in their stored format. Raises ModelUnusable for values beyond float16's range."""
    shape, dtype = planned.stored
    assert values.shape == planned.shape, f"{planned.name}: {values.shape} is not {planned.shape}"
    require_finite(planned.source or planned.name, values)
    if values.dtype == dtype:
        return np.ascontiguousarray(values)
    packed = np.empty(shape, dtype)
    rows = max(1, _AT_ONCE // max(1, values[:1].size))
    for start in range(0, len(values), rows):
        packed[start : start + rows] = _packed(values[start : start + rows], planned)
    return packed


def _packed(values: np.ndarray, planned: PlannedTensor) -> np.ndarray:
    if planned.type not in _NUMPY:
        packed: np.ndarray = quantize(values.astype(np.float32), planned.type)
        return packed
    with np.errstate(over="ignore"):
        cast = values.astype(_NUMPY[planned.type])
    if cast.dtype == np.float16 and not np.isfinite(cast).all():
        raise ModelUnusable(
            f"{planned.source} has values that float16 cannot hold.",
            fix="Export with --format merged, which keeps the base's own number format.",
        )
    return cast


def _size_label(parameters: int) -> str:
    for unit, letter in ((10**9, "B"), (10**6, "M")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{letter}"
    return f"{parameters / 1000:.3g}K"
