"""Writing a checkpoint although the disk is full: wait for room, so that it costs time and not the run."""

from __future__ import annotations

from collections.abc import Callable

from bp_core.errors import DiskFull, Interrupted

from .clock import Pause

_SECONDS_BETWEEN_TRIES = 30.0


def patiently(write: Callable[[], str], wait: float, step: int, pause: Pause) -> str:
    """What `write` returns; on a full disk it is tried again for `wait` seconds, then its DiskFull is raised.

    Raises Interrupted when a stop is asked for meanwhile.
    """
    try:
        return write()
    except DiskFull as error:
        reason = f"the disk is full ({error.message}); free some space"
    written: list[str] = []

    def over(waited: float) -> bool:
        try:
            written.append(write())
        except DiskFull:
            if waited >= wait:
                raise
        return bool(written)

    pause.until(over, step, reason, _SECONDS_BETWEEN_TRIES)
    if not written:
        raise Interrupted(f"stopped after step {step} while the disk was full; the checkpoint before it is whole.")
    return written[0]
