"""What lies on the disk, or who uses it now, does not allow what was asked."""

from __future__ import annotations

from .base import BackpropagateError


class DeviceBusy(BackpropagateError, code="STATE_DEVICE_BUSY"):
    """Another job of the web page uses the device; two at once would be slower than one after the other."""

    fix = "Let it begin when that one ends, or stop that one."


class CheckpointUnusable(BackpropagateError, code="STATE_CHECKPOINT_UNUSABLE"):
    """A checkpoint is incomplete, altered, or belongs to another run."""

    fix = "Resume from an earlier checkpoint, or start again."


class MergeRefused(BackpropagateError, code="STATE_MERGE_REFUSED"):
    """The factors of an adapter do not fit what it is to be merged with, or are not finite. The state is as before."""

    fix = "Merge adapters of one base model, trained with the same settings, whose loss stayed finite."


class NothingToResume(BackpropagateError, code="STATE_NOTHING_TO_RESUME"):
    """The run is finished, its rows were not kept, or there is none that is unfinished under the output folder."""

    fix = "Start a new run, without --resume, or name another --output."


class ResumeMismatch(BackpropagateError, code="STATE_RESUME_MISMATCH"):
    """Data, model or settings differ from those of the run to resume."""

    fix = "Use the same data, model and settings, start a new run, or go on all the same with --allow-changes."


class RunAlive(BackpropagateError, code="STATE_RUN_ALIVE"):
    """The run is being trained by another process, here or on another machine that shares the folder."""

    fix = "Wait for it to end, or stop that process; then resume."


class LedgerUnusable(BackpropagateError, code="STATE_LEDGER_UNUSABLE"):
    """The ledger of runs cannot be read or written. Training goes on without it; the run folders hold everything."""

    fix = "Make the folder writable, or set BACKPROPAGATE_HOME to another one; a newer ledger needs a newer version."


class ReplayMismatch(BackpropagateError, code="STATE_REPLAY_MISMATCH"):
    """Data, base model, tokenizer or chat template are not those of the run to replay."""

    fix = "Bring back what is named above, or start a new run with `backprop train`."


class DiskFull(BackpropagateError, code="STATE_DISK_FULL"):
    """The disk has no room for what must be written."""

    fix = "Free some space, or choose an --output on another disk."
