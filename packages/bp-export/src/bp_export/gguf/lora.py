"""LoRA adapter → GGUF adapter, which llama.cpp and LM Studio apply to a base model when they load it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from bp_core.adapter_keys import text_name
from bp_core.errors import AdapterUnusable
from bp_core.events import Notify

from ..parity import Check, Parity
from ..progress import tracked
from ..weights import adapter as lora
from ..weights.adapter_file import AdapterFile
from ..weights.changes import Change, Delta, SavedBase, parts_of
from ..weights.merged_weights import MergedWeights, open_base, require_whole_adapter
from ..weights.safetensors_file import Source
from ..weights.tying import EMBEDDING, find
from .convert import Converter, PlannedTensor
from .reader import GgufFile

_ROUNDING = 1e-3  # of a tensor's largest change: products summed in another order
_FLOAT32 = 2.0**-23  # of a tensor's largest weight: a float32 sum and a difference, each rounded
_WHOLE = "Merge instead: --format gguf, or --format merged."


@dataclass(frozen=True)
class _Pair:
    """LoRA factors of a tensor in llama.cpp's layout: a [rank, in] and b [out, rank], float32."""

    planned: PlannedTensor
    a: np.ndarray
    b: np.ndarray


class LoraConverter:
    """Converts an adapter to GGUF. Raises AdapterUnusable for what a LoRA GGUF cannot hold."""

    def __init__(self, adapter: Path, base: Path) -> None:
        lora.check_folder(adapter)
        file = AdapterFile.open(adapter)
        require_whole_adapter(file, base)
        source = open_base(base)
        self._deltas = {name: _plain(name, change, source) for name, change in lora.changes_in(file).items()}
        self._merged = Converter(MergedWeights(base, self._deltas), base)
        self._base = Converter(source, base)
        if EMBEDDING in map(text_name, self._deltas) or self._merged.tied != self._base.tied:
            raise AdapterUnusable("it changes the embedding or a tied head, which a LoRA file cannot.", fix=_WHOLE)
        # llama.cpp scales every tensor by the same alpha / its rank; other scales are folded into b
        self.alpha = max(delta.scale * delta.a.shape[0] for delta in self._deltas.values())

    def write(self, target: Path, name: str) -> None:
        """Write the adapter. `name` is the name of the base model."""
        writer = GGUFWriter(target, self._base.family.architecture)
        try:
            writer.add_type("adapter")
            writer.add_string("adapter.type", "lora")
            writer.add_float32("adapter.lora.alpha", self.alpha)
            writer.add_name(f"{name} LoRA")
            writer.add_quantization_version(2)
            for pair in self._pairs():
                writer.add_tensor(f"{pair.planned.name}.lora_a", pair.a)
                writer.add_tensor(f"{pair.planned.name}.lora_b", pair.b)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()

    def check(self, path: Path, notify: Notify | None = None) -> Parity:
        """Compare base + adapter, as llama.cpp will add them, with the merged weights, tensor by tensor."""
        gguf, worst, where = GgufFile(path), 0.0, ""
        alpha = gguf.field("adapter.lora.alpha")
        changed = [planned for planned in self._base.plan if f"{planned.name}.lora_a" in gguf.tensors]
        for planned in tracked(changed, "compare tensors", notify):
            a, b = gguf.array(f"{planned.name}.lora_a"), gguf.array(f"{planned.name}.lora_b")
            change = alpha / a.shape[0] * (b @ a)
            before = self._base.array(planned).astype(np.float32)
            expected = self._merged.array(planned).astype(np.float32) - before
            # Both sums are rounded to float32 at the magnitude of the base's weights, far above a weak change.
            allowed = _ROUNDING * np.abs(expected).max() + _FLOAT32 * np.abs(before).max()
            error = float(np.abs(change - expected).max() / max(allowed, 1e-30))
            worst, where = max((worst, where), (error, planned.name))
        missing = len(self._deltas) - len(changed)
        complete = Check("adapter is complete", f"{missing} tensors missing", 0, missing == 0)
        note = f"the largest error, as a multiple of what rounding may cause, in {where}"
        same = Check("change of the weights", worst, 1.0, worst <= 1.0, note=note)
        return Parity("f32", "tensors", 0, (complete, same), {}, {"F32": len(gguf.tensors)})

    def _pairs(self) -> Iterator[_Pair]:
        plans = {text_name(planned.source): planned for planned in self._base.plan}
        for name, delta in self._deltas.items():
            planned = plans[text_name(name)]
            scale = delta.scale * delta.a.shape[0] / self.alpha
            a, b = delta.a.astype(np.float32), delta.b.astype(np.float32) * np.float32(scale)
            yield _Pair(planned, *self._arranged(text_name(planned.source), a, b))

    def _arranged(self, name: str, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        arrange, config = self._base.family.arrange, self._base.config
        if name.endswith(".linear_attn.out_proj.weight"):  # the only tensor whose columns llama.cpp reorders
            return np.ascontiguousarray(arrange(name, a, config)), b
        return a, np.ascontiguousarray(arrange(name, b, config))


def _plain(name: str, change: Change, base: Source) -> Delta:
    """The LoRA pair of a weight. A copy of the base's own weight beside it, which PEFT saves of a head, is left out."""
    parts = parts_of(change)
    if len(parts) > 1 and isinstance(parts[0], SavedBase) and _is_copy(parts[0].weight, name, base):
        parts = parts[1:]
    delta = parts[0]
    if len(parts) > 1 or not isinstance(delta, Delta):
        raise AdapterUnusable(f"{name} was trained whole, which a LoRA file cannot hold.", fix=_WHOLE)
    if delta.magnitude is not None:
        raise AdapterUnusable(f"{name} was trained with DoRA, which a LoRA file cannot hold.", fix=_WHOLE)
    return delta


def _is_copy(saved: np.ndarray, name: str, base: Source) -> bool:
    """Whether a weight is the base's own, at most rounded to bfloat16."""
    stored = find(base, text_name(name))
    if stored is None or base.shape(stored) != saved.shape:
        return False
    own = base.array(stored).astype(np.float32)
    return bool(np.allclose(saved.astype(np.float32), own, rtol=2.0**-8, atol=0))
