"""From settings and data to a plan; and the same without data, for a model that need not even be here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bp_core.backends import choose_rail
from bp_core.choices import PAIRED
from bp_core.config import BATCH_SIZE, TrainConfig
from bp_core.recipe import Recipe
from bp_data import Prepared
from bp_data.preparing.packing import pairs
from bp_plan import speed
from bp_plan.defaults import MachineSettings, for_machine
from bp_plan.memory import GIB
from bp_plan.plan import Plan
from bp_plan.preflight import Preflight, preflight
from bp_plan.presets import PRESETS
from bp_plan.recipe import resolve
from bp_plan.rows import DeviceInfo, RowSizes, full_rows, row_sizes

from ..models import locate
from ..models.compatibility import too_large


@dataclass(frozen=True)
class Outlook:
    """What training a model would need, data aside: every row of the greatest length, every token learned."""

    model: str
    device: str
    recipe: Recipe
    preflight: Preflight
    remarks: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "preflight": self.preflight.as_dict()}


def planned(
    machine: MachineSettings,
    prepared: Prepared,
    base: Path,
    device: str,
    counts: Mapping[str, Any],
    slowdown: float | None,
) -> Plan:
    """The plan for training on `prepared`. `slowdown` is what it takes to emulate the number format (Rail.slowdown)."""
    model, name = locate.description(base), locate.lasting_name(base)
    rows = _rows(prepared)
    recipe, step = resolve(machine, rows, model)
    tokens = recipe.steps * recipe.batch_size * rows.largest(len(rows)).tokens / len(rows)
    seconds = speed.seconds(device, name, recipe, tokens)
    download = None if any(base.glob("*.safetensors")) else locate.downloads()
    expected = dataclasses.replace(preflight(recipe, step, download), seconds=seconds, slowdown=slowdown)
    remarks = (*locate.remarks(_called(machine.config.model, name), model), *expected.warnings())
    return Plan(recipe, device, base, counts, expected, remarks)


def outlook(config: TrainConfig, memory: float | None) -> Outlook:
    """What training would need on this machine, or on a device with `memory` GiB free. No weights are loaded.

    Raises ModelNotFound, HubUnreachable, ModelUnusable, UnknownBackend, BackendUnavailable.
    """
    model, name, download = locate.shape(config.model)
    if memory is None:
        backend, rail, probe = choose_rail(config.backend)
        room, device = DeviceInfo.of(backend, probe), probe.device
        slowdown = rail.slowdown(config.dtype)
    else:
        slowdown = None
        backend = "cuda" if config.backend == "auto" else config.backend
        room, device = DeviceInfo(backend, int(memory * GIB), "bfloat16"), f"{backend} with {memory:g} GiB free"
    length = config.length * (2 if config.method in PAIRED else 1)
    rows = full_rows(config.batch_size or BATCH_SIZE, length)
    recipe, step = resolve(for_machine(config, room), rows, model)
    expected = dataclasses.replace(preflight(recipe, step, download), slowdown=slowdown)
    refused = too_large(config, step.model.parameters) if step.model else ""
    remarks = (*locate.remarks(_called(config.model, name), model), *expected.warnings())
    remarks += (f"training would be refused: {refused}.",) if refused else ()
    return Outlook(config.model, device, recipe, expected, remarks)


def _called(wanted: str, name: str) -> str:
    """The preset's name if the user gave one, else what an adapter would call the base."""
    return wanted if wanted in PRESETS else name


def _rows(prepared: Prepared) -> RowSizes:
    """Tokens and targets of each row: an example, several packed ones, or the two of a pair."""
    examples = prepared.examples
    packed = pairs(len(examples)) if prepared.report.method in PAIRED else prepared.packed
    lengths = examples.lengths
    targets = np.add.reduceat(np.asarray(examples.trained, dtype=np.int64), examples.ends - lengths)
    if packed is None:
        rated = int(examples.desirable.sum()) if prepared.report.method == "kto" else None
        return row_sizes(zip(lengths.tolist(), targets.tolist(), strict=True), rated)
    return row_sizes((int(lengths[row].sum()), int(targets[row].sum())) for row in packed)
