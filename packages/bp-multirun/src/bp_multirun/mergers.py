"""How a session merges a stage's adapter: SLAO, sequential training, or task vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from . import slao, state_folder, task_vectors
from .adapter_folder import Adapter, read_adapter
from .config import TASK_VECTORS, MultiRunConfig, Schedule
from .factors import Factors


@dataclass(frozen=True)
class Chain:
    """Each stage starts from the one before (SLAO, or sequential); `state` has three tensors a layer."""

    config: MultiRunConfig
    state: slao.State | None = None

    def start(self) -> Factors | None:
        """The factors with which the next stage starts; None for a new adapter."""
        if self.state is None:
            return None
        if self.config.merge == "sequential":
            return slao.start(self.state, "keep", "finetuned")
        return slao.start(self.state, self.config.init_a, self.config.init_b)

    def added(self, new: Adapter, folder: Path) -> Chain:
        """With a stage's adapter merged, which is kept in `folder`. Raises MergeRefused."""
        return dataclasses.replace(self, state=slao.fold(self.state, new.factors, *self._weights))

    def deployed(self) -> Factors:
        """The merged factors."""
        assert self.state, "nothing was merged yet"
        return slao.deploy(self.state)

    def drift(self, new: Adapter) -> dict[str, float]:
        """Measures of how far `new` is from the merged adapter, by name."""
        measures = {"gram_error": max(slao.gram_error(pair.a) for pair in new.factors.values())}
        if self.state:
            measures["weight"] = slao.coefficient(self.state.index + 1, *self._weights)
            measures["cosine"] = slao.cosine(_bs(new), self.state.b_merged)
        return measures

    def save(self, folder: Path) -> None:
        if self.state:
            state_folder.save(self.state, folder)

    @property
    def _weights(self) -> tuple[Schedule, float]:
        return ("constant", 1.0) if self.config.merge == "sequential" else (self.config.schedule, self.config.weight)


@dataclass(frozen=True)
class TaskVectors:
    """Each stage starts from a new adapter, and the adapters in `folders` are merged together."""

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
        return {"cosine": slao.cosine(_bs(new), _bs(read_adapter(self.folders[-1])))}

    def save(self, folder: Path) -> None:
        """Nothing to save: the adapters stay in their folders."""


Merger = Chain | TaskVectors  # the merged adapter so far, and the rule for merging more


def _bs(adapter: Adapter) -> dict[str, np.ndarray]:
    return {name: pair.b for name, pair in adapter.factors.items()}


def merger(config: MultiRunConfig, state: Path | None, folders: Mapping[int, Path]) -> Merger:
    """The merger of a session, from its `state` folder if there is one. `folders`: the adapters merged so far."""
    if config.merge in TASK_VECTORS:
        return TaskVectors(config, tuple(folders.values()))
    return Chain(config, state_folder.load(state) if state and folders else None)


def weights(config: MultiRunConfig, count: int) -> tuple[float, ...]:
    """The direct share of each of `count` merged stages in the result; they sum to 1."""
    if config.merge == "sequential":
        return (0.0,) * (count - 1) + (1.0,)
    if config.merge in TASK_VECTORS:
        return (1 / count,) * count
    return slao.shares(count, config.schedule, config.weight)
