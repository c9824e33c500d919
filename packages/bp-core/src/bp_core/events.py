"""The events of a run: small records for whoever watches, written to events.jsonl one a line."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from .rail import Memory
from .units import counted

T = TypeVar("T")


@dataclass(frozen=True)
class Event:
    """Base of all events; `step` counts finished optimizer steps."""

    step: int

    def as_dict(self) -> dict[str, Any]:
        """The event as a JSON value; numbers that are not finite become null."""
        return {"event": type(self).__name__} | {n: _finite(v) for n, v in dataclasses.asdict(self).items()}

    def as_json(self) -> str:
        return json.dumps(self.as_dict())

    def describe(self) -> str:
        """A line for the user; "" for events that are only progress."""
        return ""


@dataclass(frozen=True)
class Planned(Event):
    """What the run is expected to need, before the model is loaded."""

    expected: str

    def describe(self) -> str:
        return self.expected


@dataclass(frozen=True)
class Opened(Event):
    """The model is on a card. `computed_by` says what the rail chose to compute it by."""

    device: str
    computed_by: str

    def describe(self) -> str:
        return f"On {self.device}: {self.computed_by}."


@dataclass(frozen=True)
class Trimmed(Event):
    """What of the data is not learned, or was changed before: `counts` by kind, and the first places of each kind."""

    counts: Mapping[str, int]
    places: Mapping[str, Sequence[str]]
    message: str

    def describe(self) -> str:
        return f"Data: {self.message}"


@dataclass(frozen=True)
class Started(Event):
    """Training begins at `step` (0, or where a resumed run left off)."""

    steps: int


@dataclass(frozen=True)
class Stepped(Event):
    """An optimizer step is done. `loss` is per trained token, pair or rated example; `targets` counts trained tokens.

    `seconds` are wall-clock, `temperature` is in °C where known.
    """

    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    targets: int
    seconds: float
    memory: Memory
    temperature: float | None = None


@dataclass(frozen=True)
class MemoryShrunk(Event):
    """Memory ran out; the step is replayed with this micro-batch (examples). The batch size is unchanged.

    `spilled`: the driver had moved memory to the host, which is slow; no step is replayed, the next ones are smaller.
    """

    micro_batch: int
    spilled: bool = False

    def describe(self) -> str:
        what = "The card's memory spills into the host's" if self.spilled else "Memory ran out"
        return (
            f"{what} at step {self.step + 1}: now {counted(self.micro_batch, 'example')} at once. "
            "The batch size, and so the training, is unchanged."
        )


@dataclass(frozen=True)
class Relieved(Event):
    """Memory ran out with one example at a time; `what` is the way of `Rail.save_memory(level)` now used as well."""

    level: int
    what: str

    def describe(self) -> str:
        return (
            f"Memory ran out at step {self.step + 1} with one example at a time: now with {self.what}; slower, equal."
        )


@dataclass(frozen=True)
class EvaluationShrunk(Event):
    """Memory ran out while evaluating; from now on `examples` are evaluated at once."""

    examples: int

    def describe(self) -> str:
        return (
            f"Memory ran out while evaluating after step {self.step}: now {counted(self.examples, 'example')} at once."
        )


@dataclass(frozen=True)
class Skipped(Event):
    """The loss or gradient of step `step` was not finite; its update was skipped. `count`: skipped so far."""

    what: str
    count: int

    def describe(self) -> str:
        return f"The {self.what} at step {self.step}; its update was skipped ({self.count} so far)."


@dataclass(frozen=True)
class Evaluated(Event):
    """Mean loss of the held-out examples; `best` when none before was lower. `targets` counts trained tokens.

    `perplexity` is exp(loss per token), None for preference methods, which have `accuracy` instead: the share of pairs
    or rated answers counted as `rail.EvalSums.right`.
    """

    loss: float
    perplexity: float | None
    targets: int
    best: bool
    accuracy: float | None = None

    def describe(self) -> str:
        mark = ", the best so far" if self.best else ""
        perplexity = "" if self.perplexity is None else f", perplexity {self.perplexity:.4g}"
        accuracy = "" if self.accuracy is None else f", accuracy {self.accuracy:.0%}"
        when = f"after step {self.step}" if self.step else "before training"
        return f"Evaluation {when}: loss {self.loss:.4f}{perplexity}{accuracy}{mark}."


@dataclass(frozen=True)
class Sampled(Event):
    """What the model answers to a question by now, greedily; `expected` is the answer of the data."""

    question: str
    answer: str
    expected: str

    def describe(self) -> str:
        return f"Answer after step {self.step}: {self.question.strip()!r} → {self.answer!r}"


@dataclass(frozen=True)
class StoppedEarly(Event):
    """No evaluation since `best_step` was better, for as many evaluations as `patience` allows."""

    best_step: int

    def describe(self) -> str:
        return f"Stopped after step {self.step}: no evaluation was better than that of step {self.best_step}."


@dataclass(frozen=True)
class Paused(Event):
    """The run waits between two steps, for instance until the card is cooler."""

    reason: str

    def describe(self) -> str:
        return f"Paused after step {self.step}: {self.reason}."


@dataclass(frozen=True)
class Continued(Event):
    """A pause of `seconds` is over; it does not count as training time."""

    seconds: float

    def describe(self) -> str:
        return f"Going on after a pause of {self.seconds:.0f} s."


@dataclass(frozen=True)
class Warned(Event):
    """Something is not as it should be, but the run goes on."""

    message: str

    def describe(self) -> str:
        return f"Warning: {self.message}"


@dataclass(frozen=True)
class Checkpointed(Event):
    """A checkpoint is complete on disk."""

    folder: str


@dataclass(frozen=True)
class Finished(Event):
    """Training is done. `targets` counts trained tokens, `peak_memory` is in bytes, `skipped` counts updates."""

    loss: float
    tokens: int
    targets: int
    seconds: float
    peak_memory: int
    skipped: int = 0


@dataclass(frozen=True)
class Failed(Event):
    """The run ended with an error: its code (a class name for an unexpected error), message and fix."""

    code: str
    message: str
    fix: str | None

    def describe(self) -> str:
        return f"{self.code}: {self.message}"


Watch = Callable[[Event], None]


@dataclass(frozen=True)
class Progress:
    """Progress of a long job other than training: `done` of `total`; `total` 0 means unknown. `unit`: "B" for bytes."""

    stage: str
    done: int
    total: int
    unit: str = ""


Notify = Callable[[Progress], None]


def tracked(items: Sequence[T], stage: str, notify: Notify) -> Iterator[T]:
    """The items, each after telling how many are done."""
    for done, item in enumerate(items):
        notify(Progress(stage, done, len(items)))
        yield item


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
