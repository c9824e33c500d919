"""Memory, disk and time that a run will need. It warns, and never refuses what might run."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_core.recipe import Recipe
from bp_core.units import gigabytes, in_words

from .memory import GIB, Estimate, checkpoint
from .micro_batch import StepPlan

# Bits a weight of a GGUF in q4_k_m, embeddings included; measured on exports of SmolLM2-135M and llama.cpp's tables.
_Q4_K_M_BITS = 4.9


@dataclass(frozen=True)
class Disk:
    """One volume, by a folder on it: free bytes, and the bytes of each thing to write there."""

    path: Path
    free: int
    needs: Mapping[str, int]

    @property
    def short(self) -> bool:
        return sum(self.needs.values()) > self.free

    def as_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "path": str(self.path), "short": self.short}


@dataclass(frozen=True)
class Preflight:
    """What a run needs, and what the machine has. `checked`: the memory formula was tested on this model family.

    `later`: bytes that exports would write. `seconds`: estimated duration, None if this machine has not run it before.
    `slowdown`: how many times slower layers are than in float32, if the device emulates the dtype; else None.
    """

    memory: Estimate | None
    free: int | None
    fits: bool | None
    checked: bool
    disks: tuple[Disk, ...]
    later: Mapping[str, int]
    seconds: float | None
    slowdown: float | None = None

    def message(self) -> str:
        """Memory and time in one line, for whoever starts the run."""
        if self.memory is None:
            return f"Memory: not known for this kind of model or backend. {self._time()}"
        need, free = self.memory.total / GIB, "" if self.free is None else f"; {self.free / GIB:.1f} GiB are free"
        guess = "" if self.checked else ", roughly: its kind of layer is not one that was checked"
        parts = f"weights {self.memory.weights / GIB:.1f}, activations {self._active() / GIB:.1f}"
        return f"Memory: about {need:.1f} GiB ({parts}){free}{guess}. {self._time()}"

    def warnings(self) -> list[str]:
        """What will probably go wrong, one sentence each."""
        messages = []
        if self.fits is False and self.memory:
            need, free = self.memory.total / GIB, (self.free or 0) / GIB
            less = "a smaller --max-length, --rank or model needs less"
            messages.append(f"about {need:.1f} GiB of memory are needed, but only {free:.1f} are free; {less}.")
        if self.slowdown:
            messages.append(
                "this processor computes bfloat16 by emulation: layers take "
                f"{self.slowdown:.2g} times as long as in float32, measured just now; --dtype auto avoids it here."
            )
        for disk in self.disks:
            if disk.short:
                needs = ", ".join(f"{name} {gigabytes(size)}" for name, size in disk.needs.items())
                messages.append(f"the disk of {disk.path} has {gigabytes(disk.free)} free; this run needs: {needs}.")
        return messages

    def as_dict(self) -> dict[str, Any]:
        memory = self.memory.as_dict() if self.memory else None
        disks = [disk.as_dict() for disk in self.disks]
        return {**dataclasses.asdict(self), "memory": memory, "disks": disks, "later": dict(self.later)}

    def _active(self) -> int:
        return self.memory.activations + self.memory.work if self.memory else 0

    def _time(self) -> str:
        return "Time: not known yet." if self.seconds is None else f"Time: about {in_words(max(1, self.seconds))}."


def preflight(recipe: Recipe, step: StepPlan, download: Path | None) -> Preflight:
    """What `recipe` needs. `download`: where the base model will be stored, None if it is on this machine already."""
    model = step.model
    written: list[tuple[Path, str, int]] = []
    later: dict[str, int] = {}
    if model:
        trained, each = checkpoint(model, step.setup)
        written.append((Path(recipe.output), "checkpoints", (recipe.keep_checkpoints + 2) * each))
        written.append((Path(recipe.output), "model" if recipe.mode == "full" else "adapter", trained))
        if download:
            written.append((download, "the base", 2 * model.parameters))
        small = int(model.parameters * _Q4_K_M_BITS / 8)
        later = {"merged": 2 * model.parameters, "gguf f16": 2 * model.parameters, "gguf q4_k_m": small}
    checked = model is not None and model.known
    return Preflight(step.estimate, step.free, step.fits, checked, _volumes(written), later, None)


def _volumes(written: list[tuple[Path, str, int]]) -> tuple[Disk, ...]:
    """Files to write (path, name, bytes), grouped by the volume they land on."""
    disks: dict[int, Disk] = {}
    for path, name, size in written:
        place = next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists())
        device = place.stat().st_dev
        known = disks.get(device) or Disk(place, shutil.disk_usage(place).free, {})
        disks[device] = dataclasses.replace(known, needs={**known.needs, name: size})
    return tuple(disks.values())
