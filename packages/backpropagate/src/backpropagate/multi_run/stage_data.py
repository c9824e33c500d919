"""The data of stages: whole data sets, or the parts that one is cut into; what is held out, and what is replayed.

A session keeps its rows: those held out are looked at after every later stage, when their file may be gone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bp_core.config import DataConfig, TrainConfig
from bp_core.errors import BadValue, ResumeMismatch
from bp_core.folders import damage, new_folder, write_json
from bp_data.reading.columns import as_it_is
from bp_data.reading.files import Data, Row, lasting_text, read, require
from bp_data.reading.jsonl import line, new_lines
from bp_data.reading.text import STDIN
from bp_data.split import split
from bp_multirun.config import HELD_OUT, MOST_HELD_OUT
from bp_multirun.record import Stage

from ..hints import near
from . import DATA_FOLDER, STAGE_FILE

TRAIN_FILE, HELD_OUT_FILE = "train.jsonl", "held-out.jsonl"
CHUNKED = (
    "one data set is cut into stages that are alike: there is little to forget, and merging is not expected to help. "
    "It is for stages that differ, each given with its own --data."
)


@dataclass(frozen=True)
class Source:
    """The rows of one stage, as they are given: read anew each time."""

    stage: Stage
    rows: Callable[[], Iterator[Row]]
    count: int


def sources(data: Sequence[Data], runs: int | None, config: TrainConfig) -> tuple[list[Source], list[str]]:
    """The stages that are meant, and what there is to say about them. Raises BadValue, and the errors of reading."""
    for part in data:
        require(part)
        if isinstance(part, str | Path) and str(part) == STDIN:
            fix = "Write it to a file first."
            raise BadValue("data is read more than once here, and standard input can be read only once.", fix=fix)
    if runs is None:
        notes: list[str] = []
        found = [_whole(part, number, config, notes) for number, part in enumerate(data, 1)]
        asked = config.samples or 0
        notes += [f"{s.stage.name} has {s.count} of the {asked} rows asked for." for s in found if s.count < asked]
        return found, notes
    if len(data) != 1:
        fix = "Give one data set to cut, or leave --runs out: then each data set is a stage."
        raise BadValue(f"runs cuts one data set, and {len(data)} are given.", fix=fix)
    return _cut(data[0], runs, config)


def _whole(data: Data, number: int, config: TrainConfig, notes: list[str]) -> Source:
    """A data set as a stage, or its first rows; all of it tells it from others. The reader's remarks go to `notes`."""
    reading, samples = as_it_is(config), config.samples
    digest, count = _read_through(data, reading, notes)
    name = Path(lasting_text(data) or f"rows {number}").name
    return Source(Stage(name, digest), lambda: read(data, reading, first=samples), min(count, samples or count))


def _cut(data: Data, runs: int, config: TrainConfig) -> tuple[list[Source], list[str]]:
    """Parts of one data set drawn at random, none with a row of another."""
    reading = as_it_is(config)
    notes = [CHUNKED]
    digest, count = _read_through(data, reading, notes)
    size = config.samples or math.ceil(count / runs)
    order = np.random.default_rng(config.seed).permutation(count)
    parts = [np.sort(order[start : start + size]) for start in range(0, min(count, runs * size), size)]
    if len(parts) > 1 and len(parts[-1]) < 2:
        del parts[-1]  # of one row none can be held out
    name = Path(lasting_text(data) or "rows").name
    found = [
        Source(
            Stage(f"{name}, part {number}", f"{digest}:{size}:{config.seed}:{number}"),
            _picked(data, part, reading),
            len(part),
        )
        for number, part in enumerate(parts, 1)
    ]
    if count < runs * size:
        notes.append(
            f"{name} has {count} rows, not {runs} × {size}: {len(parts)} stages, the last with {len(parts[-1])} rows."
        )
    return found, notes


def _picked(data: Data, numbers: np.ndarray, reading: DataConfig) -> Callable[[], Iterator[Row]]:
    wanted = set(numbers.tolist())
    return lambda: (row for number, row in enumerate(read(data, reading)) if number in wanted)


def _read_through(data: Data, reading: DataConfig, notes: list[str]) -> tuple[str, int]:
    """SHA-256 of all rows, and how many there are."""
    sha, count = hashlib.sha256(), 0
    for row in read(data, reading, tell=lambda remark: notes.append(f"{remark.where}: {remark.message}.")):
        sha.update(line(row.value))
        count += 1
    return sha.hexdigest(), count


@dataclass(frozen=True)
class StageData:
    """The rows that a session keeps, under `folder`: of each stage those to train on and those held out."""

    folder: Path

    def keep(self, number: int, source: Source, share: float | None, config: TrainConfig) -> None:
        """Divide a stage's rows and write both parts, unless that is done. Raises the errors of `split`, and
        ResumeMismatch where the stage was begun on other rows."""
        seed = config.seed
        place, asked = self._place(number), {"rows": source.count, "held_out": share, "seed": seed}
        if damage(place) is None:
            self._require_same(number, source, asked)
            return
        share = share or max(min(HELD_OUT, MOST_HELD_OUT / source.count), 0.51 / source.count)
        with new_folder(place) as draft:
            rows = draft / "rows.jsonl"
            with new_lines(rows) as file:
                file.writelines(line(row.value) for row in source.rows())
            parts = split(rows, share, seed=seed, folder=draft, reading=config)
            parts.train.rename(draft / TRAIN_FILE)
            parts.held_out.rename(draft / HELD_OUT_FILE)
            rows.unlink()
            write_json(draft / STAGE_FILE, asdict(source.stage) | asked)

    def _require_same(self, number: int, source: Source, asked: Mapping[str, Any]) -> None:
        place = self._place(number)
        begun = json.loads((place / STAGE_FILE).read_text(encoding="utf-8"))
        wrong = [f"{name} was {begun[name]}, is {value}" for name, value in asked.items() if begun[name] != value]
        if begun["digest"] != source.stage.digest:
            wrong = [f"it was {begun['name']}, and {source.stage.name} differs from it"]
        if wrong:
            raise ResumeMismatch(f"stage {number} was begun otherwise: {'; '.join(wrong)}.", fix=anew(place))

    def held_out(self, number: int) -> Path:
        return self._place(number) / HELD_OUT_FILE

    def train(self, number: int, earlier: Sequence[int], replay: float, seed: int) -> Path:
        """The rows to train stage `number` on: its own, and for each of them `replay` of the stages `earlier`."""
        own = self._place(number) / TRAIN_FILE
        if not replay or not earlier:
            return own
        mixed = self._place(number) / f"with-replay-{replay:g}.jsonl"  # with another share it is other data
        if not mixed.exists():
            mine = _lines(own)
            others = [_lines(self._place(n) / TRAIN_FILE) for n in earlier]
            with new_lines(mixed) as file:
                file.writelines([*mine, *_drawn(others, round(replay * len(mine)), seed + number)])
        return mixed

    def _place(self, number: int) -> Path:
        return self.folder / f"{number:04d}"


def _drawn(stages: Sequence[Sequence[bytes]], count: int, seed: int) -> Iterable[bytes]:
    """So many rows, from every stage alike; from a stage that has too few, all."""
    random = np.random.default_rng(seed)
    for number, rows in enumerate(stages):
        share = count * (number + 1) // len(stages) - count * number // len(stages)
        for index in random.permutation(len(rows))[:share]:
            yield rows[index]


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def anew(folder: Path) -> str:
    """The fix where a stage that is not done was begun otherwise."""
    stage = folder.parent.parent if folder.parent.name == DATA_FOLDER else folder.parent
    number = folder.name.removeprefix("stage-")
    where = f"{near(stage / DATA_FOLDER / number)} and {near(stage / f'stage-{number}')}"
    return f"Give what it was begun with, or remove {where} to begin that stage anew."


def as_list(dataset: Data | Sequence[Data]) -> list[Data]:
    """One data set, or several: a list of paths or of lists of rows. Raises BadValue."""
    if isinstance(dataset, str | Path | Mapping):
        return [dataset]
    parts: list[Any] = list(dataset)
    if not parts:
        raise BadValue("no data is given.", fix="Give at least one data set.")
    if all(isinstance(part, Mapping) for part in parts):
        return [parts]
    return [part if isinstance(part, str | Path | Mapping) else list(part) for part in parts]
