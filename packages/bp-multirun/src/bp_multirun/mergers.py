"""What a session does with a stage's adapter: mixes it in, takes it as it is, or merges all of them anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from . import slao, state_folder, task_vectors
from .adapter_folder import Adapter, read_adapter
from .config import TASK_VECTORS, MultiRunConfig, Schedule
from .factors import Factors


class Merger(Protocol):
    """What was merged so far, and the rule for more. Never changed: `added` makes a new one."""

    def start(self) -> Factors | None:
        """What the next stage begins with; None for a fresh adapter."""
        ...

    def added(self, new: Adapter, folder: Path) -> Merger:
        """With a stage's adapter, which stays in `folder`. Raises MergeRefused."""
        ...

    def deployed(self) -> Factors:
        """The result."""
        ...

    def drift(self, new: Adapter) -> dict[str, float]:
        """How far `new` is from what was merged so far."""
        ...

    def save(self, folder: Path) -> None:
        """Write into a folder what `load` needs."""
        ...


@dataclass(frozen=True)
class Chain:
    """Each stage begins where the one before ended; `state` holds three tensors a layer, however many stages."""

    config: MultiRunConfig
    state: slao.State | None = None

    def start(self) -> Factors | None:
        if self.state is None:
            return None
        if self.config.merge == "sequential":
            return slao.start(self.state, "keep", "finetuned")
        return slao.start(self.state, self.config.init_a, self.config.init_b)

    def added(self, new: Adapter, folder: Path) -> Chain:
        return dataclasses.replace(self, state=slao.fold(self.state, new.factors, *self._weights))

    def deployed(self) -> Factors:
        assert self.state, "nothing was merged yet"
        return slao.deploy(self.state)

    def drift(self, new: Adapter) -> dict[str, float]:
        found = {"gram_error": max(slao.gram_error(pair.a) for pair in new.factors.values())}
        if self.state is None:
            return found
        b = {name: pair.b for name, pair in new.factors.items()}
        weight = slao.coefficient(self.state.index + 1, *self._weights)
        return found | {"weight": weight, "cosine": slao.cosine(b, self.state.b_merged)}

    def save(self, folder: Path) -> None:
        if self.state:
            state_folder.save(self.state, folder)

    @property
    def _weights(self) -> tuple[Schedule, float]:
        return ("constant", 1.0) if self.config.merge == "sequential" else (self.config.schedule, self.config.weight)


@dataclass(frozen=True)
class TaskVectors:
    """Each stage begins anew, and the adapters of all are merged, from the folders in which they stay."""

    config: MultiRunConfig
    folders: tuple[Path, ...] = ()

    def start(self) -> Factors | None:
        return None

    def added(self, new: Adapter, folder: Path) -> TaskVectors:
        return dataclasses.replace(self, folders=(*self.folders, folder))

    def deployed(self) -> Factors:
        adapters = [read_adapter(folder) for folder in self.folders]
        scalings = {name: adapters[0].config.scale(name) for name in adapters[0].factors}
        rule = cast(task_vectors.Rule, self.config.merge)
        return task_vectors.merge(rule, [a.factors for a in adapters], scalings, density=self.config.density)

    def drift(self, new: Adapter) -> dict[str, float]:
        if not self.folders:
            return {}
        last = {name: pair.b for name, pair in read_adapter(self.folders[-1]).factors.items()}
        return {"cosine": slao.cosine({name: pair.b for name, pair in new.factors.items()}, last)}

    def save(self, folder: Path) -> None:
        """Nothing: the adapters are where they are."""


def merger(config: MultiRunConfig, state: Path | None, folders: Mapping[int, Path]) -> Merger:
    """The merger of a session in `state`, or of a new one. `folders`: the adapters of the stages that were merged."""
    if config.merge in TASK_VECTORS:
        return TaskVectors(config, tuple(folders.values()))
    return Chain(config, state_folder.load(state) if state and folders else None)


def weights(config: MultiRunConfig, count: int) -> tuple[float, ...]:
    """The share of each of `count` merged stages in the result, direct ones; they add up to 1."""
    if config.merge == "sequential":
        return (0.0,) * (count - 1) + (1.0,)
    if config.merge in TASK_VECTORS:
        return (1 / count,) * count
    return slao.shares(count, config.schedule, config.weight)
