"""A rail without tensors, for dry runs, tests of the loop, and as the simplest example of a rail."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .choices import DType
from .config import TrainConfig
from .errors import OutOfMemory
from .examples import Batch
from .process_group import ProcessGroup, SingleProcess
from .rail import EvalSums, Job, Memory, ModelInfo, OnToken, Pick, Probe, TokenIds


class NullRail:
    """Its model is one number; the loss of a token is 2 / (1 + updates).

    More than `capacity` examples at once raise OutOfMemory; each of `savings` levels of memory saving adds one.
    """

    def __init__(self, capacity: int | None = None, savings: int = 0, group: ProcessGroup | None = None) -> None:
        self.group = group or SingleProcess()
        self.capacity = capacity
        self.savings = savings
        self.updates = 0
        self.weight = 0.0
        self.gradient = 0.0
        self.log: list[str] = []

    def probe(self) -> Probe:
        return Probe(True, "null")

    def join(self) -> ProcessGroup:
        return self.group

    def check(self, settings: TrainConfig) -> None:
        return None

    def slowdown(self, dtype: DType) -> float | None:
        return None

    def open(self, job: Job) -> ModelInfo:
        self.updates, self.weight, self.gradient = 0, 0.0, 0.0
        return ModelInfo(parameters=1, trainable=1, device="null", dtype="float32")

    def accumulate(self, batch: Batch, weight: float) -> float:
        if self.capacity is not None and len(batch.lengths) > self.capacity:
            raise OutOfMemory(f"{len(batch.lengths)} examples do not fit; {self.capacity} do.")
        total, count, _ = self.evaluate(batch)
        self.gradient += weight * count
        self.log.append(f"accumulate {len(batch.lengths)}")
        return weight * total

    def update(self, learning_rate: float) -> float:
        norm: float = sum(self.group.gather(self.gradient))
        self.weight -= learning_rate * norm
        self.gradient = 0.0
        self.updates += 1
        self.log.append("update")
        return norm

    def discard(self) -> None:
        self.gradient = 0.0
        self.log.append("discard")

    def save_memory(self, level: int) -> str | None:
        if level > self.savings or self.capacity is None:
            return None
        self.capacity += 1
        self.log.append(f"save_memory {level}")
        return f"memory saving {level}"

    def evaluate(self, batch: Batch) -> EvalSums:
        count = sum(map(bool, batch.trained))
        return EvalSums(count * 2.0 / (1 + self.updates), count)

    def kl_reference(self, batch: Batch) -> float:
        return self.weight * len(batch.lengths)

    def logits(self, tokens: TokenIds, *, adapter: bool = True) -> Any:
        size = max(tokens) + 1
        return [[self.weight * adapter if i == token else 0.0 for i in range(size)] for token in tokens]

    def input_squares(self, rows: Sequence[TokenIds]) -> dict[str, Any]:
        return {}

    def generate(
        self,
        prompt: TokenIds,
        *,
        limit: int,
        stop: TokenIds,
        adapter: bool = True,
        on_token: OnToken = None,
        pick: Pick = None,
    ) -> list[int]:
        tokens = [*prompt[: limit - 1], *stop[:1]]
        for token in tokens if on_token else ():
            on_token(token)  # type: ignore[misc]
        return tokens

    def collect(self) -> None:
        return None

    def save(self, folder: Path) -> None:
        state = {"updates": self.updates, "weight": self.weight}
        (folder / "null.json").write_text(json.dumps(state), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        state = json.loads((folder / "null.json").read_text(encoding="utf-8"))
        self.updates, self.weight, self.gradient = state["updates"], state["weight"], 0.0

    def write_adapter(self, folder: Path) -> None:
        self.save(folder)

    def write_model(self, folder: Path) -> None:
        self.save(folder)

    def memory(self) -> Memory:
        return Memory(0, 0, 0)

    def close(self) -> None:
        self.log.append("close")
