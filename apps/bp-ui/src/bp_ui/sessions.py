"""Sessions and one-time codes. On disk are only their hashes, in files that are the owner's alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

_CODE_SECONDS = 600.0
_SESSION_SECONDS = 30 * 24 * 3600.0
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Sessions:
    """Kept in `place`, so that they outlive the server. `mark` tells the password they were made with."""

    place: Path
    mark: str = ""

    def new_code(self) -> str:
        """A code to sign in with once, within ten minutes."""
        code = secrets.token_urlsafe(32)
        self._write("codes", code, {"ends": time.time() + _CODE_SECONDS})
        return code

    def redeem(self, code: str) -> str | None:
        """A new session for a code, which is used up by it; None for one that is unknown, used or old."""
        path = self._path("codes", code)
        record = _read(path)
        try:
            path.unlink()  # whoever takes the file away has the code
        except OSError:
            return None
        if record is None or record["ends"] < time.time():
            return None
        return self.begin()

    def begin(self) -> str:
        """A new session's secret, which the browser keeps."""
        secret = secrets.token_urlsafe(32)
        self._write("sessions", secret, {"ends": time.time() + _SESSION_SECONDS, "mark": self.mark})
        return secret

    def is_open(self, secret: str) -> bool:
        record = _read(self._path("sessions", secret))
        return record is not None and record["ends"] > time.time() and record.get("mark", "") == self.mark

    def end(self, secret: str) -> None:
        self._path("sessions", secret).unlink(missing_ok=True)

    def end_all(self) -> None:
        """Sign out everywhere."""
        for path in self._folder("sessions").iterdir():
            if _HASH.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _path(self, kind: str, secret: str) -> Path:
        return self.place / kind / hashlib.sha256(secret.encode()).hexdigest()

    def _folder(self, kind: str) -> Path:
        folder = self.place / kind
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def _write(self, kind: str, secret: str, record: dict[str, object]) -> None:
        self._folder(kind)
        handle = os.open(self._path(kind, secret), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(record, file)


def _read(path: Path) -> dict[str, float] | None:
    try:
        record: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record
