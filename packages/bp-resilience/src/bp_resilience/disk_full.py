"""Writing a checkpoint while the disk is full: the run waits for free space instead of failing."""

from __future__ import annotations

from collections.abc import Callable

from bp_core.errors import DiskFull, Interrupted

from .clock import Pause

_SECONDS_BETWEEN_TRIES = 30.0


def retry_until_space(write: Callable[[], str], wait: float, step: int, pause: Pause) -> str:
    """Call `write` and return its result. On a full disk retry for `wait` seconds, then raise its DiskFull.

    Raises Interrupted when a stop is requested meanwhile.
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
