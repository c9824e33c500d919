"""The parts that data sets come in: train, validation, test, told by the names of files, folders and keys."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TypeVar

from .context import Context, Remark

Part = TypeVar("Part")
TRAIN = "train"
_NAMES = {
    TRAIN: ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development", "eval", "evaluation", "heldout", "held"),
    "test": ("test", "testing"),
}
_SPLITS = {word: split for split, words in _NAMES.items() for word in words}
_WORDS = re.compile(r"[^a-z]+")


def split_named(name: str) -> str | None:
    """The split that a name speaks of: `train`, `validation` or `test`; None for other names."""
    words = _WORDS.split(name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def part_to_read(splits: Mapping[Part, str | None], evaluating: bool) -> list[Part]:
    """Of the parts of a data set, by their splits: those to train on, or those to evaluate on.

    Parts without a split are for training where there is something to evaluate on beside them. Empty if there are only
    parts of several splits to evaluate on, and none to train on.
    """
    by_split: dict[str | None, list[Part]] = {}
    for part, split in splits.items():
        by_split.setdefault(split, []).append(part)
    order = ("validation", "test") if evaluating else (TRAIN, None)
    for split in order:
        if split in by_split:
            return by_split[split]
    return list(splits) if evaluating or len(by_split) == 1 else []


def tell_others(others: Sequence[str], where: str, context: Context, fix: str | None = None) -> None:
    """Tell which parts of the data are not read. `others` are paths, unless there is a `fix`."""
    if not others:
        return
    names = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
    path = shlex.quote(others[0])
    fix = fix or f"To evaluate on it while training: --eval-data {path}; to train on it too: another --data {path}"
    part = "one part to evaluate on" if context.evaluating else "the train part"
    context.tell(Remark("other-split", where, f"only {part} is read, not {names}", fix))
