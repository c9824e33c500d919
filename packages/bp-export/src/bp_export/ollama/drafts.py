"""The name under which a model is checked before it gets its own, and what became of it.

A server that dies meanwhile keeps the draft, so a record of each is kept here until the draft is gone. It is locked
while its registration runs: one that can be locked was abandoned.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bp_core import folders
from bp_core.errors import (
    BackpropagateError,
    OllamaModelMissing,
    OllamaNameTaken,
)

from ..ollama_names import LONGEST
from .client import Ollama

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_FOLDER = "ollama-drafts"  # in the user's Backpropagate folder
_ENDING = "-unchecked"


def draft_name(name: str) -> str:
    """The name under which a model is checked: another tag of the same model."""
    before, slash, last = name.rpartition("/")
    model, _, tag = last.partition(":")
    return f"{before}{slash}{model}:{(tag or 'latest')[: LONGEST - len(_ENDING)]}{_ENDING}"


@dataclass
class Draft:
    """A model under the name of a draft. `left`: what to do about it where the server died before it was removed."""

    name: str
    left: str = ""


@contextlib.contextmanager
def draft(server: Ollama, name: str) -> Iterator[Draft]:
    """The draft of `name`: unloaded and removed on every way out.

    Where the server cannot do that any more, the error or `left` says so, and `remove_abandoned` does it later.
    """
    temporary = draft_name(name)
    made = Draft(temporary)
    with _record(server, temporary) as record:
        try:
            yield made
        except BackpropagateError as error:
            if not _discard(server, temporary, record):
                error.fix = f"{error.fix} {_how_to_remove(temporary, server)}"
            raise
        except BaseException:
            _discard(server, temporary, record)
            raise
        if not _discard(server, temporary, record):
            made.left = f"Ollama stopped answering once the model had its name. {_how_to_remove(temporary, server)}"


def remove_abandoned(server: Ollama) -> list[str]:
    """Remove the drafts of registrations that were killed, or whose server died. Returns their names."""
    removed = []
    for path in sorted((folders.home() / _FOLDER).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError), path.open("a+", encoding="utf-8") as file:
            if not _lock(file):
                continue
            file.seek(0)
            written = json.loads(file.read())
            if written["server"] == server.url and _discard(server, written["draft"], path):
                removed.append(str(written["draft"]))
    return removed


@contextlib.contextmanager
def _record(server: Ollama, name: str) -> Iterator[Path | None]:
    """Keep a record of a draft while it may exist. Where none can be written, the registration goes on without."""
    key = hashlib.sha256(f"{server.url} {name}".encode()).hexdigest()[:16]
    path = folders.home() / _FOLDER / f"{key}.json"
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("a+", encoding="utf-8"))
        except OSError:
            yield None
            return
        if not _lock(file):
            message = f"another process registers {name.removesuffix(_ENDING)!r} just now."
            raise OllamaNameTaken(message, fix="Wait until it is done, or choose another name.")
        file.truncate(0)
        file.write(json.dumps({"server": server.url, "draft": name}))
        file.flush()
        yield path


def _discard(server: Ollama, name: str, record: Path | None) -> bool:
    """Unload and remove a draft, and its record. False if the server did not answer."""
    try:
        server.remove(name)
    except OllamaModelMissing:
        pass  # it was never created, or somebody removed it
    except BackpropagateError:
        return False
    if record:
        with contextlib.suppress(OSError):
            record.write_text("")  # Windows does not remove a file that is open; an empty one is no record
            record.unlink()
    return True


def _how_to_remove(name: str, server: Ollama) -> str:
    by_itself = "the next registration does it, too"
    return f"If Ollama at {server.url} still has {name}: backprop ollama rm {name} ({by_itself})."


def _lock(file: IO[str]) -> bool:
    """Take the kernel's lock on a file, which ends with the process; False if another process has it."""
    try:
        if sys.platform == "win32":
            file.seek(1 << 20)  # behind the text, which stays readable
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
