"""A note on a run, in the user's words: a file of its own, so that a run that is being trained can have one."""

from __future__ import annotations

from bp_core.folders import new_file
from bp_core.redact import redact

from .run_folder import RunFolder

NOTE_FILE = "note.txt"
LONGEST = 4000  # characters


def read_note(run: RunFolder) -> str:
    """The note on a run; "" if there is none."""
    path = run.path / NOTE_FILE
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:LONGEST].strip()
    except OSError:
        return ""


def write_note(run: RunFolder, text: str) -> None:
    """Put `text` in the place of the note there was; what looks like a secret is taken out. Raises OutputUnusable."""
    with new_file(run.path / NOTE_FILE) as draft:
        draft.write_text(redact(text)[:LONGEST] + "\n", encoding="utf-8")
