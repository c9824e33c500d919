"""The totals of a run's events, while it runs, or from events.jsonl when the ledger is rebuilt."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bp_core.errors import Interrupted
from bp_core.events import Continued, Evaluated, Failed, Finished, Paused, Started, Stepped

RUNNING, PAUSED, FINISHED, FAILED, INTERRUPTED = "running", "paused", "finished", "failed", "interrupted"
STATUSES = (RUNNING, PAUSED, FINISHED, FAILED, INTERRUPTED)
_BEGINS = {Started: RUNNING, Stepped: RUNNING, Paused: PAUSED, Continued: RUNNING}
_STATUS = {kind.__name__: status for kind, status in _BEGINS.items()}


@dataclass
class Summary:
    """Totals of a run. Losses are per trained token, `eval_loss` is the lowest evaluation after a step; `targets`
    counts trained tokens, `seconds` is the time in steps, `peak_memory` is in bytes."""

    status: str = RUNNING
    step: int = 0
    steps: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    best_loss: float | None = None
    eval_loss: float | None = None
    tokens: int = 0
    targets: int = 0
    seconds: float = 0.0
    peak_memory: int = 0
    error_code: str | None = None
    error_message: str | None = None

    def add(self, event: Mapping[str, Any]) -> None:
        """Add one event, in the form of Event.as_dict; other kinds of events change nothing."""
        kind = str(event["event"])
        self.step = event.get("step", self.step)
        self.status = _STATUS.get(kind, self.status)
        if kind == Started.__name__:
            self.steps, self.error_code, self.error_message = event["steps"], None, None
        elif kind == Stepped.__name__:
            self._stepped(event)
        elif kind == Evaluated.__name__ and event["step"]:  # that of step 0 is of the model before training
            self.eval_loss = _lower(self.eval_loss, event["loss"])
        elif kind == Finished.__name__:
            self.peak_memory = max(self.peak_memory, event["peak_memory"])
        elif kind == Failed.__name__:
            self.error_code, self.error_message = event["code"], event["message"]
            self.status = INTERRUPTED if event["code"] == Interrupted.code else FAILED

    def _stepped(self, event: Mapping[str, Any]) -> None:
        loss = event["loss"]
        if loss is not None and math.isfinite(loss):
            self.first_loss = loss if self.first_loss is None or event["step"] == 1 else self.first_loss
            self.last_loss = loss
            self.best_loss = _lower(self.best_loss, loss)
        self.tokens += event["tokens"]
        self.targets += event["targets"]
        self.seconds += event["seconds"]
        self.peak_memory = max(self.peak_memory, event["memory"]["peak"])

    def as_dict(self) -> dict[str, Any]:
        """The totals, and the mean speed."""
        speed = self.tokens / self.seconds if self.seconds else None
        return {**dataclasses.asdict(self), "tokens_per_second": speed}


def _lower(best: float | None, loss: float | None) -> float | None:
    """The lower of two losses; None and numbers that are not finite do not count."""
    known = [value for value in (best, loss) if value is not None and math.isfinite(value)]
    return min(known, default=None)
