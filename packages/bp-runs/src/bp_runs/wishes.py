"""What the user wishes of a run that is being trained: a small file in its folder, read between two steps.

A file works for every run, whoever started it and on whatever system; signals need the same machine, and Windows has
none that ask politely.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bp_core.errors import RunNotRunning
from bp_core.folders import write_json

from .claim import Owner
from .run_folder import RunFolder

WISH_FILE = "wish.json"
_SECONDS_BETWEEN_LOOKS = 0.5


class Wish(StrEnum):
    """PAUSE waits between two steps until CONTINUE; STOP ends the run there, with a checkpoint."""

    NONE = ""
    PAUSE = "pause"
    CONTINUE = "continue"
    STOP = "stop"


def wish(run: RunFolder, what: Wish) -> None:
    """Leave a wish for the process that trains the run. Raises RunNotRunning, CheckpointUnusable, OutputUnusable."""
    if not is_running(run.read()):
        raise RunNotRunning(f"run {run.id} is not being trained, so there is nothing to {what}.", where=str(run.path))
    write_json(run.path / WISH_FILE, {"wish": what, "time": round(time.time(), 3)})


def read_wish(folder: Path) -> Wish:
    """The wish that lies in the folder of a run; NONE if there is none, or it cannot be read."""
    try:
        return Wish(json.loads((folder / WISH_FILE).read_text(encoding="utf-8"))["wish"])
    except (OSError, ValueError, KeyError, TypeError):
        return Wish.NONE


def forget_wish(folder: Path) -> None:
    """Take away what was wished of an earlier sitting."""
    (folder / WISH_FILE).unlink(missing_ok=True)


def is_running(record: dict[str, Any]) -> bool:
    """Whether the process of a run, as run.json names it, is there; on another machine it counts as there."""
    if record.get("status") == "finished" or "owner" not in record:
        return False
    return Owner(**record["owner"]).alive() is not False


@dataclass
class WishReader:
    """Reads the wish of a run, from the disk at most twice a second. Give it as `LoopContext.wish`."""

    folder: Path
    _read_at: float = float("-inf")
    _last: Wish = Wish.NONE

    def __call__(self) -> str:
        now = time.monotonic()
        if now - self._read_at >= _SECONDS_BETWEEN_LOOKS:
            self._read_at = now
            self._last = read_wish(self.folder)
        return self._last
