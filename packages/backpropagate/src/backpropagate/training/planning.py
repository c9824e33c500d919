"""From settings and data to a plan; and the same without data, for a model that need not even be here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bp_core.backends import choose_rail
from bp_core.choices import AUTO_MODES, PAIRED, Mode
from bp_core.config import BATCH_SIZE, TrainConfig
from bp_core.errors import BadValue, DoesNotFit, PackageMissing
from bp_core.rail import Probe, Rail
from bp_core.recipe import Recipe
from bp_core.step_sizes import SHORT_SEGMENT, kept_weights
from bp_data import Prepared
from bp_data.preparing.packing import pairs
from bp_plan import speed
from bp_plan.defaults import MachineSettings, for_machine
from bp_plan.fitting import misfit
from bp_plan.memory import GIB
from bp_plan.plan import Plan
from bp_plan.preflight import Preflight, preflight
from bp_plan.presets import PRESETS
from bp_plan.recipe import resolve
from bp_plan.rows import DeviceInfo, RowSizes, full_rows, row_sizes

from ..models import locate
from ..models.compatibility import too_large

# Attention weights that a head keeps of an example, by its tokens; of longer ones none.
_KEPT_WEIGHTS = np.array([kept_weights(length) for length in range(SHORT_SEGMENT + 2)])


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
    rows: RowSizes,
    base: Path,
    device: str,
    counts: Mapping[str, Any],
    slowdown: float | None,
) -> tuple[Plan, DoesNotFit | None]:
    """The plan for training on `rows`, and the error where the card is too small for it.

    `slowdown` is what it takes to emulate the number format (Rail.slowdown).
    """
    model, name = locate.description(base), locate.lasting_name(base)
    recipe, step = resolve(machine, rows, model)
    tokens = recipe.steps * recipe.batch_size * rows.largest(len(rows)).tokens / len(rows)
    seconds = speed.seconds(speed.kind_of(device, name, recipe), tokens)
    download = None if any(base.glob("*.safetensors")) else locate.downloads()
    expected = dataclasses.replace(preflight(recipe, step, download), seconds=seconds, slowdown=slowdown)
    unfit = misfit(machine, recipe, step, rows)
    remarks = (*locate.remarks(_called(machine.config.model, name), model), *expected.warnings())
    remarks += tuple(_of_memory(machine.device, unfit))
    return Plan(recipe, device, base, counts, expected, remarks), unfit


def outlook(config: TrainConfig, memory: float | None) -> Outlook:
    """What training would need on this machine, or on a device with `memory` GiB free. No weights are loaded.

    Raises ModelNotFound, HubUnreachable, ModelUnusable, UnknownBackend, BackendUnavailable.
    """
    model, name, download = locate.shape(config.model)
    if memory is None:
        backend, rail, probe = choose_rail(config.backend)
        room, device = device_info(config, backend, rail, probe), probe.device
        slowdown = rail.slowdown(config.dtype)
    else:
        slowdown = None
        backend = "cuda" if config.backend == "auto" else config.backend
        room, device = DeviceInfo(backend, int(memory * GIB), "bfloat16"), f"{backend} with {memory:g} GiB free"
    length = config.length * (2 if config.method in PAIRED else 1)
    rows = full_rows(config.batch_size or BATCH_SIZE, length, packed=config.packing)
    machine = for_machine(config, room)
    recipe, step = resolve(machine, rows, model)
    expected = dataclasses.replace(preflight(recipe, step, download), slowdown=slowdown)
    refused = too_large(config, step.model.parameters) if step.model else ""
    remarks = (*locate.remarks(_called(config.model, name), model), *expected.warnings())
    remarks += (f"training would be refused: {refused}.",) if refused else ()
    remarks += tuple(_of_memory(room, None if refused else misfit(machine, recipe, step, rows)))
    return Outlook(config.model, device, recipe, expected, remarks)


def device_info(config: TrainConfig, backend: str, rail: Rail, probe: Probe) -> DeviceInfo:
    """The device, and the modes that auto cannot take on it since a package is missing."""
    lacks: dict[Mode, str] = {}
    for mode in AUTO_MODES if config.mode == "auto" else ():
        try:
            rail.check(dataclasses.replace(config, mode=mode))
        except PackageMissing as error:
            lacks[mode] = error.message.removeprefix(f"mode {mode} ").rstrip(".")
        except BadValue:
            continue  # what does not go together is told where the mode is chosen, what this machine lacks in `choose`
    return DeviceInfo.of(backend, probe, lacks)


def _of_memory(device: DeviceInfo, unfit: DoesNotFit | None) -> Iterator[str]:
    """What to tell of a card that shows a screen, and of one that is too small."""
    if device.reserve:
        yield f"this card shows a screen: {device.reserve / GIB:.1f} GiB that are free are left to the desktop."
    if unfit:
        yield f"training would be refused: {unfit.message} {unfit.fix}"


def _called(wanted: str, name: str) -> str:
    """The preset's name if the user gave one, else what an adapter would call the base."""
    return wanted if wanted in PRESETS else name


def sizes_of(prepared: Prepared) -> RowSizes:
    """Tokens and targets of each row: an example, several packed ones, or the two of a pair."""
    examples = prepared.examples
    packed = pairs(len(examples)) if prepared.report.method in PAIRED else prepared.packed
    lengths = examples.lengths
    targets = np.add.reduceat(np.asarray(examples.trained, dtype=np.int64), examples.ends - lengths)
    weights = _KEPT_WEIGHTS[np.minimum(lengths, len(_KEPT_WEIGHTS) - 1)]
    sizes = np.stack([lengths, targets, weights], axis=1)
    if packed is None:
        rated = int(examples.desirable.sum()) if prepared.report.method == "kto" else None
        return row_sizes(sizes.tolist(), rated)
    return row_sizes(sizes[row].sum(axis=0).tolist() for row in packed)
