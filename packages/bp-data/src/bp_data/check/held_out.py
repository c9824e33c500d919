"""The held-out data, of which no row may be in the training data."""

from __future__ import annotations

from array import array
from itertools import islice

from rensa import RMinHash

from bp_core.config import DataConfig

from ..formats.detect import convert
from ..formats.records import AnyRecord
from ..reading.columns import Columns, as_it_is
from ..reading.files import Row, read
from .characters import clean
from .duplicates import Places, key
from .near_duplicates import NearIndex, hashes
from .turns import RowText

_CHUNK = 512


class HeldOut:
    """Keys and locations of the held-out rows, and an index of near duplicates. Raises the errors of reading them."""

    def __init__(self, data: str, reading: DataConfig, near: bool) -> None:
        self.places, self.keys = Places(), array("Q")
        self._near = NearIndex() if near else None
        self._columns = Columns(reading)
        rows = read(data, as_it_is(reading))
        while chunk := list(islice(rows, _CHUNK)):
            self._add(chunk)

    def nearly(self, hashed: RMinHash) -> int | None:
        """The number of the first row that is nearly equal."""
        return self._near.find(hashed) if self._near else None

    def _add(self, rows: list[Row]) -> None:
        first = len(self.places)
        records = [self._converted(row) for row in rows]
        for record in records:
            self.places.append(record.where)
            self.keys.append(key(record))
        if self._near:
            for number, hashed in enumerate(hashes([RowText.of(record).joined for record in records]), first):
                self._near.add(number, hashed)

    def _converted(self, row: Row) -> AnyRecord:
        value, _ = clean(row.value)
        return convert(Row(self._columns.rename(value, row.where), row.where))
