"""Splitting a data file into training and held-out rows, with no conversation on both sides."""

from __future__ import annotations

import codecs
import dataclasses
import hashlib
import json
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from bp_core.config import DataConfig
from bp_core.errors import BadValue

from .formats.detect import convert
from .formats.records import AnyRecord, content_of
from .reading.columns import Columns, as_it_is
from .reading.context import Tell, unheard
from .reading.files import Row, read
from .reading.hub import named
from .reading.jsonl import line, new_lines, refuse_existing
from .reading.text import STDIN

_PACKED = {".gz", ".zst"}


@dataclass(frozen=True)
class Split:
    """The two files and their row counts. `repeated` counts duplicates, which are on the side of the first one."""

    train: Path
    held_out: Path
    train_rows: int
    held_out_rows: int
    repeated: int

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def split(
    file: str | Path,
    held_out: float,
    *,
    seed: int = 42,
    folder: str | Path | None = None,
    reading: DataConfig | None = None,
    tell: Tell = unheard,
) -> Split:
    """Write `<stem>.train.jsonl` and `<stem>.held-out.jsonl` beside the file or into `folder`; those of
    a data set of the hub into the current folder.

    `held_out` is a share of the distinct conversations. The choice depends on the seed and their contents, not on their
    position. Rows keep their order and columns, and lines of JSON their bytes. `reading` is the `config` of `read`,
    `tell` as there. Standard input is read once, and its rows are kept in a temporary file until all are known. Raises
    the errors of reading and converting, BadValue, OutputUnusable.
    """
    if not 0 < held_out < 1:
        raise BadValue(f"held_out must be between 0 and 1, not {held_out}.", fix="0.05 holds out one row in twenty.")
    train, held = _targets(file, folder)
    if str(file) == STDIN:
        with tempfile.TemporaryFile() as kept_lines:
            keys = _spooled(file, reading or DataConfig(), seed, kept_lines)
            kept_lines.seek(0)
            return _written(keys, kept_lines, held_out, train, held)
    keys = array("Q", (_key(convert(row), seed) for row in read(file, reading, tell=tell)))
    return _written(keys, _lines(read(file, as_it_is(reading or DataConfig()))), held_out, train, held)


def _spooled(file: str | Path, reading: DataConfig, seed: int, lines: IO[bytes]) -> array[int]:
    """The keys of rows that can be read only once; their lines are written to `lines`."""
    columns, keys = Columns(reading), array("Q")
    for row in read(file, as_it_is(reading)):
        keys.append(_key(convert(Row(columns.rename(row.value, row.where), row.where)), seed))
        lines.write(line(row.value))
    return keys


def _written(keys: array[int], lines: Iterable[bytes], held_out: float, train: Path, held: Path) -> Split:
    """Write each line to the side that its key is on."""
    distinct = np.unique(np.frombuffer(keys, dtype=np.uint64))
    limit = int(distinct[count_held_out(len(distinct), held_out) - 1])
    with new_lines(train) as kept, new_lines(held) as taken:
        for key, content in zip(keys, lines, strict=True):
            (taken if key <= limit else kept).write(content)
    rows = sum(key <= limit for key in keys)
    return Split(train, held, len(keys) - rows, rows, len(keys) - len(distinct))


def _targets(data: str | Path, folder: str | Path | None) -> tuple[Path, Path]:
    name = named(data)
    file = Path(str(name).rpartition("/")[2].replace(":", ".") + ".jsonl") if name else Path(data)
    if str(data) == STDIN:
        file = Path("stdin.jsonl")
    stem = Path(file.stem).stem if file.suffix.lower() in _PACKED else file.stem
    place = file.parent if folder is None else Path(folder)
    targets = place / f"{stem}.train.jsonl", place / f"{stem}.held-out.jsonl"
    for target in targets:
        refuse_existing(target)
    return targets


def _key(record: AnyRecord, seed: int) -> int:
    """A pseudo-random number from the row's contents in any format; the lowest are held out."""
    content = json.dumps([seed, content_of(record)], sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def count_held_out(distinct: int, share: float) -> int:
    """The number of conversations to hold out. Raises BadValue if a side would be empty."""
    count = round(distinct * share)
    if 0 < count < distinct:
        return count
    side = "nothing is held out" if count == 0 else "nothing is left to train on"
    fix = f"Use --held-out from {1 / distinct:.2g} to {1 - 1 / distinct:.2g}."
    if distinct < 2:
        fix = "Give a file with at least two different conversations."
    raise BadValue(f"with held_out {share} of {distinct} different conversations, {side}.", fix=fix)


def _lines(rows: Iterable[Row]) -> Iterator[bytes]:
    source = _Source()
    for row in rows:
        yield source.line(row) or line(row.value)


class _Source:
    """Reads the original lines of rows, alongside `read`."""

    def __init__(self) -> None:
        self._name = ""
        self._lines: Iterator[tuple[int, bytes]] = iter(())

    def line(self, row: Row) -> bytes | None:
        """The row's original line, if that is the row as JSON."""
        name, _, number = row.where.rpartition(":")
        if not number.isdecimal():
            return None
        if name != self._name:
            self._name, self._lines = name, _numbered(Path(name))
        content = next((content for at, content in self._lines if at == int(number)), b"")
        return content if _says(content, row) else None


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    if path.is_file():
        with path.open("rb") as file:
            for number, content in enumerate(file, 1):
                start = codecs.BOM_UTF8 if number == 1 else b""
                yield number, content.removeprefix(start).removesuffix(b"\n") + b"\n"


def _says(content: bytes, row: Row) -> bool:
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError):
        return False
    return json.dumps(value) == json.dumps(row.value, default=str)  # as text, since NaN is not equal to itself
