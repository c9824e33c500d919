"""The ledger: one SQLite file with a row for each run, shared by all processes of a user.

It is an index of the run folders. A damaged file is renamed, with the date, and rebuilt from them.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from bp_core.errors import LedgerUnusable
from bp_core.renaming import rename

from .claim import Owner
from .summary import INTERRUPTED, PAUSED, RUNNING, Summary

T = TypeVar("T")
VERSION = 1
_BUSY_SECONDS = 10
_MAGIC = b"SQLite format 3\0"
# Our statements are fixed, so a plain SQLITE_ERROR means that a table is missing from the file.
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}


@dataclass(kw_only=True)
class Entry(Summary):
    """A run's totals, and what else is known of it: one row, each field a column. Times are seconds since 1970.

    `data` is a path, None for rows given in Python.
    """

    id: str
    folder: str
    model: str
    data: str | None
    data_sha256: str
    recipe: Mapping[str, Any]
    versions: Mapping[str, Any]
    host: str
    pid: int
    pid_began: float
    started: float
    heartbeat: float
    tokens_per_second: float | None
    exports: tuple[Mapping[str, Any], ...] = ()

    def status_now(self) -> str:
        """The status, but `interrupted` for a run on this host whose process is gone."""
        gone = self.status in (RUNNING, PAUSED) and Owner(self.host, self.pid, self.pid_began).alive() is False
        return INTERRUPTED if gone else self.status

    def as_dict(self) -> dict[str, Any]:
        values = dataclasses.asdict(self) | {"status": self.status_now()}
        return {name: values[name] for name in COLUMNS}


_FIELDS = [field.name for field in dataclasses.fields(Entry)]
# As people and other tools read a run: what it is before how it went.
COLUMNS = ("id", "folder", "status", *(name for name in _FIELDS if name not in ("id", "folder", "status")))
_JSON = ("recipe", "versions", "exports")
_TABLE = f"CREATE TABLE runs ({', '.join(_FIELDS)}, PRIMARY KEY (id))"
_PUT = (
    f"INSERT INTO runs ({', '.join(_FIELDS)}) VALUES ({', '.join('?' * len(_FIELDS))}) ON CONFLICT (id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _FIELDS if name not in ("id", "exports"))
)


class Ledger:
    """The ledger in the file `path`. `known` gives the runs to put into a new file.

    Every call is a short transaction on its own connection, so threads and processes can share the file. All raise
    LedgerUnusable when it can be neither used nor replaced.
    """

    def __init__(self, path: Path, known: Callable[[], Iterable[Entry]] = tuple) -> None:
        self.path = path
        self._known = known

    def record(self, entry: Entry) -> None:
        """Add or update a run; its exports in the ledger are kept."""
        self._do(lambda db: _put(db, entry))

    def add_export(self, run: str, export: Mapping[str, Any]) -> None:
        """Add an exported file to a run, in place of an earlier one at the same path; ignored for an unknown run."""

        def add(db: sqlite3.Connection) -> None:
            for (text,) in db.execute("SELECT exports FROM runs WHERE id = ?", [run]).fetchall():
                others = [other for other in json.loads(text) if other["path"] != export["path"]]
                db.execute("UPDATE runs SET exports = ? WHERE id = ?", [json.dumps([*others, dict(export)]), run])

        self._do(add)

    def entries(self) -> list[Entry]:
        """All runs, newest first; also when the folder is read-only.

        A file that is whole and of this version is read without the write lock, so nobody waits for a reader.
        """
        with suppress(sqlite3.Error, ValueError, OSError):
            if not _is_other(self.path):
                return self._read()
        try:
            return self._do(_entries)
        except LedgerUnusable:
            if not self.path.is_file():
                raise
            file = f"file:{quote(str(self.path))}?immutable=1"
            with _translated(self.path), closing(sqlite3.connect(file, uri=True)) as db:
                return _entries(db)

    def _read(self) -> list[Entry]:
        """All runs of an existing file. Raises sqlite3.Error or ValueError for one to be made, updated or replaced."""
        with closing(sqlite3.connect(f"file:{quote(str(self.path))}?mode=ro", uri=True, timeout=_BUSY_SECONDS)) as db:
            if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                raise ValueError("it is new, or of another version")
            return _entries(db)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with _translated(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return self._attempt(work)
            except (sqlite3.DatabaseError, ValueError) as error:
                if not _is_damage(error):
                    raise
            self._set_aside()
            return self._attempt(work)

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if _is_other(self.path):
            raise ValueError("this is no SQLite file")
        with closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("BEGIN IMMEDIATE")  # taking the write lock later may fail
            with db:
                self._ensure_table(db)
                return work(db)

    def _ensure_table(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise LedgerUnusable(f"it is of version {version}, not {VERSION}.", where=str(self.path))
        if version == 0:
            db.execute(_TABLE)
            for entry in self._known():
                _put(db, entry)
            db.execute(f"PRAGMA user_version = {VERSION}")

    def _set_aside(self) -> None:
        """Rename the damaged file and its logs, under a lock, unless another process has done so already."""
        lock = self.path.with_suffix(".lock")
        with closing(sqlite3.connect(lock, timeout=_BUSY_SECONDS, isolation_level=None)) as guard:
            guard.execute("BEGIN EXCLUSIVE")
            if self._whole():
                return
            stem = time.strftime(f"{self.path.stem}-damaged-%Y%m%d-%H%M%S-{time.time_ns() % 10**9:09}")
            for suffix in ("", "-wal", "-shm"):
                part = self.path.with_name(self.path.name + suffix)
                if part.exists():
                    rename(part, self.path.with_name(f"{stem}{self.path.suffix}{suffix}"))
            self._attempt(lambda db: None)

    def _whole(self) -> bool:
        try:
            self._attempt(_entries)
        except (sqlite3.DatabaseError, ValueError) as error:
            if _is_damage(error):
                return False
            raise
        return True


def _is_other(path: Path) -> bool:
    """Whether the file is not SQLite's. SQLite would then delete the log beside it, which may still be useful."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) not in (_MAGIC, b"")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise LedgerUnusable(f"it cannot be used ({error}).", where=str(path)) from error


def _put(db: sqlite3.Connection, entry: Entry) -> None:
    values = vars(entry) | {name: json.dumps(getattr(entry, name)) for name in _JSON}
    db.execute(_PUT, [values[name] for name in _FIELDS])


def _entries(db: sqlite3.Connection) -> list[Entry]:
    """Every row, newest first. Raises DatabaseError or ValueError for a damaged file."""
    if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise ValueError("a page is damaged")
    return [_entry(row) for row in db.execute(f"SELECT {', '.join(_FIELDS)} FROM runs ORDER BY started DESC, id DESC")]


def _entry(row: tuple[Any, ...]) -> Entry:
    values = dict(zip(_FIELDS, row, strict=True))
    values |= {name: json.loads(values[name]) for name in _JSON}
    return Entry(**values | {"exports": tuple(values["exports"])})


def _is_damage(error: Exception) -> bool:
    """Whether the file is damaged, and not locked, on a full disk or without permission."""
    if isinstance(error, sqlite3.Error):
        return (getattr(error, "sqlite_errorcode", sqlite3.SQLITE_INTERNAL) & 0xFF) in _DAMAGE
    return True
