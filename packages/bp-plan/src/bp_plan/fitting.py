"""Whether a step can fit into a card's memory at all, and what would fit in its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bp_core.choices import PAGED, PAIRED, Mode
from bp_core.config import FULL_LIMIT, TrainConfig
from bp_core.errors import BadValue, DoesNotFit
from bp_core.recipe import Recipe

from .architecture import Architecture, architecture
from .defaults import MachineSettings
from .memory import GIB, estimate
from .micro_batch import StepPlan
from .presets import PRESETS
from .rows import RowSizes, full_rows
from .training_step import MemorySetup

_LENGTHS = (4096, 2048, 1024, 512, 256)  # that are proposed in place of a longer one


@dataclass(frozen=True)
class SmallestStep:
    """The step of a recipe that needs the least: one row at once, and layers computed again.

    The loop comes to it by itself when memory runs out, so more than that is never refused.
    """

    machine: MachineSettings
    recipe: Recipe
    setup: MemorySetup
    rows: RowSizes
    free: int

    def need(self, model: Architecture, mode: Mode, rows: RowSizes) -> int:
        """Bytes without the reserve for fragmentation, and without moments that may move to the host."""
        setup = replace(self.setup, mode=mode, recompute=True, accumulating=self.recipe.batch_size > 1)
        if mode != "full":
            setup = replace(setup, optimizer="adamw")
        needed = estimate(model, setup, rows.largest(1))
        return needed.total - needed.slack - (needed.optimizer if setup.optimizer == PAGED else 0)

    def fits(self, model: Architecture, mode: Mode, rows: RowSizes) -> bool:
        return self.need(model, mode, rows) <= self.free


def misfit(machine: MachineSettings, recipe: Recipe, step: StepPlan, rows: RowSizes) -> DoesNotFit | None:
    """The error where even the smallest step does not fit; None where it may.

    Only for families whose formula was held against traces, and on cards: a host has swap space, and its free memory
    is not what it could have.
    """
    model, free = step.model, step.free
    if model is None or free is None or not model.known or step.fits is not False or step.setup.device != "cuda":
        return None
    smallest = SmallestStep(machine, recipe, step.setup, rows, free)
    need = smallest.need(model, recipe.mode, rows)
    if need <= free:
        return None
    others = list(_alternatives(smallest, model))
    fix = f"Use what fits here: {', or '.join(others)}." if others else "Train on a card with more memory."
    return DoesNotFit(
        f"mode {recipe.mode} needs {need / GIB:.1f} GiB on the card, with one row at once and layers computed again; "
        f"{free / GIB:.1f} GiB are free.",
        where=recipe.model,
        fix=fix,
    )


def _alternatives(smallest: SmallestStep, model: Architecture) -> Iterator[str]:
    """Options that would fit, each by itself: fewer bits, a shorter length, a smaller preset."""
    mode, rows = smallest.recipe.mode, smallest.rows
    if mode != "qlora" and _goes_with(smallest.machine, "qlora") and smallest.fits(model, "qlora", rows):
        yield "--mode qlora"
    longest = rows.largest(1).tokens
    for length in _LENGTHS:
        shorter = full_rows(1, length * (2 if smallest.recipe.method in PAIRED else 1))
        if length < longest and smallest.fits(model, mode, shorter):
            yield f"--max-length {length}"
            break
    if name := _smaller_preset(smallest, model):
        yield f"--model {name}"


def _smaller_preset(smallest: SmallestStep, model: Architecture) -> str | None:
    """The largest preset below `model` that fits with the same settings."""
    mode, best = smallest.recipe.mode, None
    most = 0
    for name, preset in PRESETS.items():
        shape = architecture(preset.config)
        if shape is None or not shape.known or not most < shape.parameters < model.parameters:
            continue
        if mode == "full" and shape.parameters > FULL_LIMIT:
            continue
        if smallest.fits(shape, mode, smallest.rows):
            best, most = name, shape.parameters
    return best


def _goes_with(machine: MachineSettings, mode: Mode) -> bool:
    """Whether a mode goes with the other settings, and with what is installed."""
    if mode in machine.device.lacks:
        return False
    settings: TrainConfig = machine.config
    try:
        replace(settings, mode=mode)
    except BadValue:
        return False
    return True
