"""What a run tells whoever watches: small records, written to events.jsonl one a line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .rail import Memory


@dataclass(frozen=True)
class Event:
    """Base of all events; `step` counts finished optimizer steps."""

    step: int

    def as_dict(self) -> dict[str, Any]:
        return {"event": type(self).__name__, **dataclasses.asdict(self)}

    def as_json(self) -> str:
        return json.dumps(self.as_dict())

    def says(self) -> str:
        """A line for the person who watches; "" for what is only progress."""
        return ""


@dataclass(frozen=True)
class Started(Event):
    """Training begins at `step` (0, or where a resumed run left off)."""

    steps: int


@dataclass(frozen=True)
class Stepped(Event):
    """An optimizer step is done. `loss` is per target token; seconds are wall-clock."""

    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    targets: int
    seconds: float
    memory: Memory


@dataclass(frozen=True)
class MemoryShrunk(Event):
    """Memory ran out; the step is replayed with this micro-batch. The effective batch is unchanged."""

    micro_batch: int

    def says(self) -> str:
        return (
            f"Memory ran out at step {self.step + 1}: now {self.micro_batch} examples at once. "
            "The batch size, and so the training, is unchanged."
        )


@dataclass(frozen=True)
class Checkpointed(Event):
    """A checkpoint is complete on disk."""

    folder: str


@dataclass(frozen=True)
class Finished(Event):
    """All steps are done."""

    loss: float
    tokens: int
    targets: int
    seconds: float
    peak_memory: int


@dataclass(frozen=True)
class Warned(Event):
    """Something went wrong that does not stop the run."""

    message: str

    def says(self) -> str:
        return f"Warning: {self.message}"


@dataclass(frozen=True)
class Failed(Event):
    """The run ended before its time: the error's code (a class name for a mistake of ours), message and fix."""

    code: str
    message: str
    fix: str | None

    def says(self) -> str:
        return f"{self.code}: {self.message}"


Watch = Callable[[Event], None]


@dataclass(frozen=True)
class Progress:
    """How far a long job other than training is; `total` 0 means unknown."""

    stage: str
    done: int
    total: int


Notify = Callable[[Progress], None]
