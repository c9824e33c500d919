"""A session: for each stage train an adapter, merge it, measure forgetting, and save the state.

Training and measuring are callbacks, so any trainer can be used. States are written atomically: after a kill the same
call continues from the last one.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bp_core.adapter_config import CONFIG, WEIGHTS
from bp_core.contract import CONTRACT_FILE
from bp_core.errors import MergeRefused, ResumeMismatch
from bp_core.folders import MANIFEST, new_folder, sweep, write_json

from .adapter_folder import Adapter, read_adapter, write_adapter
from .config import MultiRunConfig
from .mergers import Merger, merger
from .record import GENERAL, Entry, Record, Scores, Stage, state_place, states

_OWN = {CONFIG, WEIGHTS, MANIFEST}  # of an adapter; the rest is carried along
MERGED, START = "merged", "start"
_TRAINED = "trained.json"


@dataclass(frozen=True)
class SessionCallbacks:
    """What a session calls.

    `train(number, start, folder)` trains stage `number` (from 1) from the PEFT folder `start` (None: a new adapter)
    and returns the PEFT folder of the result, which must be kept. After a kill it is called again, and may resume.
    `measure(adapter, sets)` scores an adapter (None: the base) on the rows of each set.
    `done(number, merged)` gets the folder of the merged adapter after each stage, and again after a kill.
    """

    train: Callable[[int, Path | None, Path], Path]
    measure: Callable[[Path | None, Sequence[str]], Scores]
    done: Callable[[int, Path], None]


class Session:
    """A session in `folder`, where nothing else may write meanwhile.

    `facts` must be the same whenever it is resumed. Raises ResumeMismatch where they are not.
    """

    def __init__(
        self, folder: Path, config: MultiRunConfig, facts: Mapping[str, Any], callbacks: SessionCallbacks
    ) -> None:
        self.folder, self.config, self.callbacks = folder, config, callbacks
        self._state = next(iter(states(folder)), None)
        facts = json.loads(json.dumps(facts))  # as they come back from a file
        self.record = Record.read(self._state) if self._state else Record(facts)
        _require_same(self.record, facts, folder)

    def run(self, stages: Sequence[Stage]) -> Record:
        """Run those of `stages` that are not done yet. Raises what `train` and `measure` raise.

        The merged adapter is in `result` then; the record has the scores.
        """
        self.require(stages)
        self._judge_again()
        if self.record.entries:
            self._tidy(len(self.record.entries))
        if self.record.accepted:
            self.callbacks.done(len(self.record.entries), self.result)
        for number in range(len(self.record.entries) + 1, len(stages) + 1):
            self._stage(number, stages[number - 1])
        return self.record

    def require(self, stages: Sequence[Stage]) -> None:
        """Raises ResumeMismatch if the finished stages differ from the given ones."""
        fix = "Give the same data sets in the same order, new ones after them; or start anew in another --output."
        for number, entry in enumerate(self.record.entries, 1):
            if number > len(stages):
                message = f"{len(self.record.entries)} stages are done here, and only {len(stages)} are given."
                raise ResumeMismatch(message, where=str(self.folder), fix=fix)
            if entry.digest != stages[number - 1].digest:
                message = f"stage {number} was trained on {entry.name}, and {stages[number - 1].name} differs from it."
                raise ResumeMismatch(message, where=str(self.folder), fix=fix)

    @property
    def result(self) -> Path:
        """The PEFT folder of the merged adapter after the last accepted stage."""
        return self.stage_folder(self.record.accepted[-1]) / MERGED

    def stage_folder(self, number: int) -> Path:
        return self.folder / f"stage-{number:04d}"

    def adapters(self) -> dict[int, Path]:
        """The adapters of the accepted stages, as they were trained."""
        return {number: self._trained(number) for number in self.record.accepted}

    def _stage(self, number: int, stage: Stage) -> None:
        merged = merger(self.config, self._state, self.adapters())
        place = self.stage_folder(number)
        place.mkdir(parents=True, exist_ok=True)
        for name in (MERGED, START, state_place(self.folder, number).name):
            sweep(place if name in (MERGED, START) else self.folder, name)
        folder = self.callbacks.train(number, self._start(merged, place), place)
        _note(place, folder)
        new = self._like_before(folder)
        candidate = merged.added(new, folder)
        _write_merged(place / MERGED, folder, dataclasses.replace(new, factors=candidate.deployed()))
        entry = self._measured(number, stage, folder, merged.drift(new))
        self._commit(entry, candidate if entry.accepted else merged)

    def _start(self, merged: Merger, place: Path) -> Path | None:
        """Write the PEFT folder with which the stage starts, with the settings as before; None for a new adapter."""
        factors = merged.start()
        if factors is None:
            return None
        before = self._trained(self.record.accepted[-1])
        shutil.rmtree(place / START, ignore_errors=True)  # may be outdated if the gate was widened since
        with new_folder(place / START) as draft:
            write_adapter(draft, dataclasses.replace(read_adapter(before), factors=factors, dtype="float32"))
            if (before / CONTRACT_FILE).is_file():  # what it added to the base's template stays
                shutil.copyfile(before / CONTRACT_FILE, draft / CONTRACT_FILE)
        return place / START

    def _measured(self, number: int, stage: Stage, folder: Path, drift: Mapping[str, float]) -> Entry:
        """The stage's entry: its scores, and whether the gate accepts it."""
        own, sets = str(number), [*map(str, range(1, number + 1)), GENERAL]
        base = self.callbacks.measure(None, [own, GENERAL] if number == 1 else [own])
        unmerged = self.callbacks.measure(folder, [own])
        scores = self.callbacks.measure(self.stage_folder(number) / MERGED, sets)
        rise = _rise(self.record.standing(), scores, self.record.accepted)
        entry = Entry(stage.name, stage.digest, True, rise, base, unmerged, scores, dict(drift))
        return dataclasses.replace(entry, accepted=self._passes(entry))

    def _like_before(self, folder: Path) -> Adapter:
        """A stage's adapter. Raises MergeRefused where it cannot be merged with those before, AdapterUnusable.

        The base is compared by whoever knows it: its folder may have another name by now.
        """
        new = read_adapter(folder)
        for number in self.record.accepted[-1:]:
            if new.config != read_adapter(self._trained(number)).config:
                raise MergeRefused(f"its settings differ from those of stage {number}'s adapter.", where=str(folder))
        return new

    def _passes(self, entry: Entry) -> bool:
        return self.config.gate is None or entry.rise is None or entry.rise <= self.config.gate

    def _commit(self, entry: Entry, kept: Merger) -> None:
        """Save the state; the stage is finished then."""
        record = dataclasses.replace(self.record, entries=(*self.record.entries, entry))
        number = len(record.entries)
        with new_folder(state_place(self.folder, number)) as draft:
            record.write(draft)
            kept.save(draft)
        self.record, self._state = record, state_place(self.folder, number)
        if record.accepted:
            self.callbacks.done(number, self.result)
        self._tidy(number)

    def _judge_again(self) -> None:
        """Take back the refusal of the last stage if the gate has been widened since."""
        entries = self.record.entries
        if entries and not entries[-1].accepted and self._passes(entries[-1]):
            self.record = dataclasses.replace(self.record, entries=entries[:-1])
            shutil.rmtree(state_place(self.folder, len(entries)))
            self._state = next(iter(states(self.folder)), None)

    def _tidy(self, number: int) -> None:
        """Delete files that are no longer needed. The state before a refused stage is kept, for a wider gate."""
        kept = {state_place(self.folder, number)}
        if not self.record.entries[-1].accepted:
            kept |= set(states(self.folder)[1:2])
        for path in set(self.folder.glob("state-*")) - kept:
            shutil.rmtree(path)
        needed = (*self.record.accepted[-1:], number)
        for earlier in range(1, number + 1):
            shutil.rmtree(self.stage_folder(earlier) / START, ignore_errors=True)
            if earlier not in needed:
                shutil.rmtree(self.stage_folder(earlier) / MERGED, ignore_errors=True)

    def _trained(self, number: int) -> Path:
        place = self.stage_folder(number)
        return place / str(json.loads((place / _TRAINED).read_text(encoding="utf-8")))


def _require_same(record: Record, facts: Mapping[str, Any], folder: Path) -> None:
    names = [name for name in {**record.facts, **facts} if record.facts.get(name) != facts.get(name)]
    changed = [f"{name} was {record.facts.get(name)!r}, is {facts.get(name)!r}" for name in names]
    if changed:
        fix = "Use the settings of the stages before, or start anew in another --output."
        raise ResumeMismatch("; ".join(changed) + ".", where=str(folder), fix=fix)


def _rise(before: Scores, now: Scores, learned: Sequence[int]) -> float | None:
    """The rise of the mean loss of the earlier stages; None at the first stage."""
    rises = [now[name].loss - before[name].loss for name in map(str, learned)]
    return sum(rises) / len(rises) if rises else None


def _note(place: Path, folder: Path) -> None:
    """Write down where a stage's adapter is, as a relative path if possible, so that the output can be moved."""
    inside = folder.is_relative_to(place)
    write_json(place / _TRAINED, (folder.relative_to(place) if inside else folder.resolve()).as_posix())


def _write_merged(target: Path, trained: Path, adapter: Adapter) -> None:
    """Write the merged adapter, with the other files of the trained one's folder; it is read back and compared."""
    shutil.rmtree(target, ignore_errors=True)  # left by a process that was killed
    with new_folder(target) as draft:
        for path in trained.iterdir():
            if path.is_file() and path.name not in _OWN:
                shutil.copyfile(path, draft / path.name)
        write_adapter(draft, adapter)
        written = read_adapter(draft)
        assert written.factors.keys() == adapter.factors.keys(), "what was written is what was merged"
        if adapter.dtype == "float32":
            for name, pair in adapter.factors.items():
                assert np.array_equal(written.factors[name].a, pair.a), "what was written is what was merged"
                assert np.array_equal(written.factors[name].b, pair.b), "what was written is what was merged"
