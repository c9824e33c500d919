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
from bp_core.rail import Probe
from bp_core.recipe import Recipe
from bp_data import Prepared
from bp_data.preparing.packing import pairs
from bp_plan import speed
from bp_plan.architecture import architecture
from bp_plan.memory import GIB
from bp_plan.micro_batch import Room, cut
from bp_plan.plan import Plan
from bp_plan.preflight import Preflight, preflight
from bp_plan.presets import PRESETS
from bp_plan.recipe import resolve
from bp_plan.rows import Rows, alike, rows_of

from ..models import locate
from ..models.compatibility import too_large


@dataclass(frozen=True)
class Place:
    """Where a run will be: the rail's name, its device, the folder of the base, and what it takes to emulate a format
    (Rail.slowdown)."""

    backend: str
    probe: Probe
    base: Path
    slowdown: float | None = None

    @property
    def room(self) -> Room:
        return Room(self.backend, self.probe.free or None, self.probe.dtype or "auto")


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


def planned(config: TrainConfig, prepared: Prepared, place: Place, counts: Mapping[str, Any]) -> Plan:
    """The plan for training on `prepared`."""
    model = locate.description(place.base)
    rows, name = _rows(prepared), locate.lasting_name(place.base)
    recipe = resolve(config, rows, place.backend, model, _room(config, place.room))
    tokens = recipe.steps * recipe.batch_size * rows.largest(len(rows)).tokens / len(rows)
    expected = _preflight(config, recipe, model, (rows, _room(config, place.room)))
    seconds = speed.seconds(place.probe.device, name, recipe, tokens)
    expected = dataclasses.replace(expected, seconds=seconds, slowdown=place.slowdown)
    remarks = (*locate.remarks(_called(config.model, name), model), *expected.warnings())
    return Plan(recipe, place.probe.device, place.base, counts, expected, remarks)


def outlook(config: TrainConfig, memory: float | None) -> Outlook:
    """What training would need on this machine, or on a device with `memory` GiB free. No weights are loaded.

    Raises ModelNotFound, HubUnreachable, ModelUnusable, UnknownBackend, BackendUnavailable.
    """
    model, name, download = locate.shape(config.model)
    if memory is None:
        backend, rail, probe = choose_rail(config.backend)
        room, device = Room(backend, probe.free or None, probe.dtype or "auto"), probe.device
        slowdown = rail.slowdown(config.dtype)
    else:
        slowdown = None
        backend = "cuda" if config.backend == "auto" else config.backend
        room, device = Room(backend, int(memory * GIB), "bfloat16"), f"{backend} with {memory:g} GiB free"
    length = config.length * (2 if config.method in PAIRED else 1)
    rows, room = alike(config.batch_size or BATCH_SIZE, length), _room(config, room)
    recipe = resolve(config, rows, backend, model, room)
    expected = _preflight(config, recipe, model, (rows, room), download)
    expected = dataclasses.replace(expected, slowdown=slowdown)
    shape = architecture(model)
    refused = too_large(config, shape.parameters) if shape else ""
    remarks = (*locate.remarks(_called(config.model, name), model), *expected.warnings())
    remarks += (f"training would be refused: {refused}.",) if refused else ()
    return Outlook(config.model, device, recipe, expected, remarks)


def _preflight(
    config: TrainConfig,
    recipe: Recipe,
    model: Mapping[str, Any],
    where: tuple[Rows, Room],
    download: Path | None = None,
) -> Preflight:
    rows, room = where
    shape = architecture(model)
    settled = dataclasses.replace(
        config, micro_batch=recipe.micro_batch, activation_checkpointing=recipe.activation_checkpointing
    )
    as_cut = cut(settled, shape, rows, room, recipe.batch_size)
    return preflight(recipe, shape, as_cut, room.free, download)


def _room(config: TrainConfig, room: Room) -> Room:
    return room if config.dtype == "auto" else dataclasses.replace(room, dtype=config.dtype)


def _called(wanted: str, name: str) -> str:
    """The preset's name if the user gave one, else what an adapter would call the base."""
    return wanted if wanted in PRESETS else name


def _rows(prepared: Prepared) -> Rows:
    """Tokens and targets of each row: an example, several packed ones, or the two of a pair."""
    examples = prepared.examples
    packed = pairs(len(examples)) if prepared.report.method in PAIRED else prepared.packed
    lengths = examples.lengths
    targets = np.add.reduceat(np.asarray(examples.trained, dtype=np.int64), examples.ends - lengths)
    if packed is None:
        rated = int(examples.desirable.sum()) if prepared.report.method == "kto" else None
        return rows_of(zip(lengths.tolist(), targets.tolist(), strict=True), rated)
    return rows_of((int(lengths[row].sum()), int(targets[row].sum())) for row in packed)
