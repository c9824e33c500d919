"""A LoRA adapter as a GGUF of its own, for llama.cpp and LM Studio to put on a base model when it is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from bp_core.errors import AdapterUnusable
from bp_core.events import Notify, Progress

from ..parity import Check, Parity
from ..weights import adapter as lora
from ..weights import model_files
from ..weights.merge import Merged, open_base
from .convert import Converter, Planned
from .reader import GgufFile

_ROUNDING = 1e-3  # of a tensor's largest change: two products summed in another order
_FLOAT32 = 2.0**-23  # of a tensor's largest weight: a sum in float32 and a difference, each to half a unit
_WHOLE = "Merge instead: --format gguf, or --format merged."


@dataclass(frozen=True)
class _Pair:
    """The two factors of one tensor in llama.cpp's layout, a [rank, in] and b [out, rank], both float32."""

    planned: Planned
    a: np.ndarray
    b: np.ndarray


class LoraConverter:
    """An adapter on its way to GGUF. Raises AdapterUnusable for what such a file cannot say, before any work."""

    def __init__(self, adapter: Path, base: Path) -> None:
        self._deltas = {name: _plain(name, change) for name, change in lora.read(adapter).items()}
        self._merged = Converter(Merged(base, self._deltas), base)
        self._base = Converter(open_base(base), base)
        # llama.cpp multiplies every tensor by alpha / its rank: one alpha for all, so b carries what differs
        self.alpha = max(delta.scale * delta.a.shape[0] for delta in self._deltas.values())

    def write(self, target: Path, name: str) -> None:
        """Write the adapter. `name` is the base model's."""
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
        """Compare base + what llama.cpp will add with the merged weights, tensor by tensor."""
        gguf, worst, where = GgufFile(path), 0.0, ""
        alpha = gguf.field("adapter.lora.alpha")
        touched = [planned for planned in self._base.plan if f"{planned.name}.lora_a" in gguf.tensors]
        for done, planned in enumerate(touched, 1):
            a, b = gguf.array(f"{planned.name}.lora_a"), gguf.array(f"{planned.name}.lora_b")
            change = alpha / a.shape[0] * (b @ a)
            before = self._base.array(planned).astype(np.float32)
            wanted = self._merged.array(planned).astype(np.float32) - before
            # Both sums are rounded to float32 at the size of the base's weights, which a weak adapter is far below.
            allowed = _ROUNDING * np.abs(wanted).max() + _FLOAT32 * np.abs(before).max()
            error = float(np.abs(change - wanted).max() / max(allowed, 1e-30))
            worst, where = max((worst, where), (error, planned.name))
            if notify:
                notify(Progress("compare tensors", done, len(touched)))
        missing = len(self._deltas) - len(touched)
        complete = Check("adapter is complete", f"{missing} tensors missing", 0, missing == 0)
        note = f"the largest error, in units of what rounding may cause, in {where}"
        same = Check("change of the weights", worst, 1.0, worst <= 1.0, note=note)
        return Parity("f32", "tensors", 0, (complete, same), {}, {"F32": len(gguf.tensors)})

    def _pairs(self) -> Iterator[_Pair]:
        plans = {model_files.text_name(planned.source): planned for planned in self._base.plan}
        for name, delta in self._deltas.items():
            planned = plans[model_files.text_name(name)]
            scale = delta.scale * delta.a.shape[0] / self.alpha
            a, b = delta.a.astype(np.float32), delta.b.astype(np.float32) * np.float32(scale)
            yield _Pair(planned, *self._arranged(model_files.text_name(planned.source), a, b))

    def _arranged(self, name: str, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        arrange, config = self._base.family.arrange, self._base.config
        if name.endswith(".linear_attn.out_proj.weight"):  # the one tensor whose columns llama.cpp reorders
            return np.ascontiguousarray(arrange(name, a, config)), b
        return a, np.ascontiguousarray(arrange(name, b, config))


def _plain(name: str, change: lora.Change) -> lora.Delta:
    if not isinstance(change, lora.Delta):
        raise AdapterUnusable(f"{name} was trained whole, which a LoRA file cannot hold.", fix=_WHOLE)
    if change.magnitude is not None:
        raise AdapterUnusable(f"{name} was trained with DoRA, which a LoRA file cannot hold.", fix=_WHOLE)
    return change
