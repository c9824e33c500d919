"""Writing rows as JSON lines: atomically, and never over an existing file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bp_core.errors import OutputUnusable
from bp_core.folders import new_file


def line(value: object) -> bytes:
    """The value as one line of UTF-8 JSON."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str).encode() + b"\n"
    except UnicodeEncodeError:  # half a character (a lone surrogate) must be escaped
        return json.dumps(value, default=str).encode() + b"\n"


def refuse_existing(target: Path) -> None:
    """Raises OutputUnusable if `target` exists."""
    if target.exists() or target.is_symlink():
        raise OutputUnusable("this exists already.", where=str(target), fix="Choose another name, or remove it.")


@contextmanager
def new_lines(target: Path) -> Iterator[BinaryIO]:
    """A file to write lines to, renamed to `target` at the end. Raises OutputUnusable if `target` exists."""
    refuse_existing(target)
    with new_file(target) as draft, draft.open("wb") as file:
        yield file
