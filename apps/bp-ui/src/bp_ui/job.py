"""`python -m bp_ui.job FOLDER`: does what the folder's job.json says, and writes down how it went."""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from bp_core.errors import BackpropagateError, FileTooLarge, Interrupted
from bp_core.folders import of_system, write_json
from bp_core.redact import redact, redact_all
from bp_runs.claim import Owner

from .jobs import BEGUN, ERROR, EXIT, OPEN, OWNER, RESULT, Job, Jobs

_SECONDS_BETWEEN_LOOKS = 1.0
_BUG = 2


def main(folder: Path) -> int:
    """Do the job, and return the exit code: as of the command line."""
    for name in ("SIGTERM", "SIGBREAK"):
        if name in signal.Signals.__members__:
            signal.signal(signal.Signals[name], _end)
    job = Job(folder)
    write_json(folder / OWNER, dataclasses.asdict(Owner.this()))
    try:
        code = _do(job)
    except KeyboardInterrupt:
        code = Interrupted.exit_code
    except BackpropagateError as error:
        write_json(folder / ERROR, redact_all(error.as_dict()))
        code = error.exit_code
    except MemoryError:
        too_large = FileTooLarge("this needs more memory than it may use.", fix="Split the file, or use a smaller one.")
        write_json(folder / ERROR, too_large.as_dict())
        code = too_large.exit_code
    except Exception as error:  # noqa: BLE001 - the border to the user
        told = of_system(error)
        write_json(folder / ERROR, redact_all(told.as_dict()) if told else _bug(error))
        code = told.exit_code if told else _BUG
    write_json(folder / EXIT, {"code": code, "time": round(time.time(), 3)})
    return code


def _bug(error: Exception) -> dict[str, Any]:
    """What the page shows of a mistake of ours; the traceback goes into the job's log."""
    print(redact("".join(traceback.format_exception(error))), file=sys.stderr)
    message = f"This is a mistake in Backpropagate: {type(error).__name__}: {redact(str(error))}"
    fix = "Report it with the log below and what the page System shows."
    return {"code": "BUG", "message": message, "where": None, "fix": fix}


def _do(job: Job) -> int:
    if job.is_heavy:
        _wait_for_turn(job)
    write_json(job.folder / BEGUN, {"time": round(time.time(), 3)})
    # Loaded now, so that a job that waits needs little memory.
    verbs: Any = import_module("bp_ui.verbs")
    result = verbs.do(job.verb, job.record["arguments"])
    write_json(job.folder / RESULT, redact_all(result))
    return 0


def _wait_for_turn(job: Job) -> None:
    """Until no older job uses the device. It ends: each of those ends, or its process does."""
    jobs = Jobs(job.folder.parent)
    while any(other.id < job.id and other.is_heavy and other.state() in OPEN for other in jobs.all()):
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
