"""A run, an export or an evaluation failed while it computed, or was stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .base import BackpropagateError


class OutOfMemory(BackpropagateError, code="RUNTIME_GPU_OOM"):
    """The device's memory is exhausted, also with one example at a time and with all that saves memory."""

    fix = "Use a smaller --max-length or --rank, or a smaller model."


class ModelTooLarge(BackpropagateError, code="RUNTIME_FULL_FT_MODEL_TOO_LARGE"):
    """A model has too many parameters to train all of them on one machine."""

    fix = "Train an adapter (--mode lora), a smaller model, or up to 8.5 billion parameters with --full-ft-offload."


class PeerLost(BackpropagateError, code="RUNTIME_PEER_LOST"):
    """Another process that trains the same run ended, or did not answer for half an hour."""

    fix = "See what the other processes said; then start all of them again with --resume."


class Diverged(BackpropagateError, code="RUNTIME_DIVERGED"):
    """The loss or the gradient was not a finite number in more steps than may be skipped."""

    fix = "Lower --learning-rate, and check the data for extreme rows."


class NotProven(BackpropagateError, code="RUNTIME_EXPORT_NOT_PROVEN"):
    """A GGUF is not proven to be the model that was trained. An exported one is kept under a name that says so.

    `checks` are those that failed: name, measured, allowed, note.
    """

    fix = (
        "Export again with --accept-unproven to use the file all the same. To report it, send the parity file and the "
        "output of `backprop info`; look through its notes first, they may quote your data."
    )

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        fix: str | None = None,
        checks: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(message, where=where, fix=fix)
        self.checks = list(checks)

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"checks": self.checks}


class GateFailed(BackpropagateError, code="RUNTIME_GATE_FAILED"):
    """An evaluation was done, and what it measured does not satisfy the conditions that were set."""

    fix = "Train longer or on better data, or set other limits in --gate."


class Interrupted(BackpropagateError, code="RUNTIME_INTERRUPTED"):
    """The run was stopped by the user; its last checkpoint is complete."""

    fix = "Go on with `backprop resume`."


Interrupted.exit_code = 130
