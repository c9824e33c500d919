"""The parts that data sets come in: train, validation, test, told by the names of files, folders and keys."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from .context import Remark, Tell

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


def tell_others(others: Sequence[str], where: str, tell: Tell, fix: str | None = None) -> None:
    """Tell which parts of the data are not trained on. `others` are paths, unless there is a `fix`."""
    if not others:
        return
    names = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
    path = shlex.quote(others[0])
    fix = fix or f"To evaluate on it while training: --eval-data {path}; to train on it too: another --data {path}."
    tell(Remark("other-split", where, f"only the train part is read, not {names}", fix))
