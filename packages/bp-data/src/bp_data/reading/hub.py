"""Data sets on the Hugging Face hub: `owner/name`, `owner/name:split`, or `owner/name:config:split`.

A revision (a branch, a tag or a commit) stands after the name: `owner/name@revision:split`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from bp_core.errors import BadValue, FileMissing, FileUnreadable, HubUnreachable

from .arrow import unpadded
from .text import optional

_NAME = re.compile(
    r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?"
    r"(?::(?P<config>[\w.-]+)(?=:))?(?::(?P<split>[\w.-]+))?"
)
_FILES = re.compile(r"\.(?:jsonl?|ndjson|csv|tsv|parquet|arrow|feather|txt|md|gz|zst)$", re.IGNORECASE)
_FIX = "Check the network and HF_TOKEN, or download the files and name their folder."


@dataclass(frozen=True, slots=True)
class HubName:
    """A data set on the hub. `split` None means the only split, `revision` None the newest one."""

    repository: str
    config: str | None
    split: str | None
    revision: str | None = None

    def __str__(self) -> str:
        repository = f"{self.repository}@{self.revision}" if self.revision else self.repository
        return ":".join(part for part in (repository, self.config, self.split) if part)


def named(data: str | Path) -> HubName | None:
    """The hub name in `data`; None if `data` is a path.

    An existing path is a path. So is a name without split that ends like a data file or whose folder exists.
    """
    match = _NAME.fullmatch(data) if isinstance(data, str) else None
    if not match or Path(match[0]).exists():
        return None
    if not match["split"] and (_FILES.search(match[0]) or Path(match[0]).parent.is_dir()):
        return None
    return HubName(**match.groupdict())


def hub_rows(name: HubName) -> Iterator[tuple[Mapping[str, object], str]]:
    """The rows of a hub data set with their locations, downloaded by `datasets` into its cache.

    Raises PackageMissing, HubUnreachable, FileMissing, FileUnreadable, and BadValue for a missing config or split, or
    if none is named of several.
    """
    datasets = optional("datasets", "hub", Path(str(name)))
    with _asking(datasets, name):
        splits: list[str] = datasets.get_dataset_split_names(name.repository, name.config, revision=name.revision)
    split = _choose(name, splits)
    with _asking(datasets, name):
        rows = datasets.load_dataset(name.repository, name.config, split=split, revision=name.revision)
    place = dataclasses.replace(name, split=split)
    for number, value in enumerate(rows, 1):
        yield unpadded(value), f"{place}: row {number}"


def _choose(name: HubName, splits: list[str]) -> str:
    if name.split in splits:
        return name.split
    if name.split is None and len(splits) == 1:
        return splits[0]
    message = "there are several splits" if name.split is None else f"there is no split {name.split!r}"
    example = dataclasses.replace(name, split=splits[0])
    fix = f"Write one of them after the name, such as {example}."
    raise BadValue(f"{message}; the splits are: {', '.join(splits)}.", where=name.repository, fix=fix)


@contextmanager
def _asking(datasets: ModuleType, name: HubName) -> Iterator[None]:
    """Turn exceptions of `datasets` into ours."""
    try:
        yield
    except datasets.exceptions.DatasetNotFoundError as error:
        message = "there is no such file, and the hub has no such data set, or it is private."
        raise FileMissing(message, where=str(name)) from error
    except ValueError as error:
        fix = f"Name the config and the split: {name.repository}:config:split."
        raise BadValue(" ".join(str(error).split()), where=str(name), fix=fix) from error
    except datasets.exceptions.DatasetsError as error:
        raise FileUnreadable(f"its files cannot be read: {_line(error)}.", where=str(name), fix=_FIX) from error
    except OSError as error:
        raise HubUnreachable(f"the hub could not be reached ({_line(error)}).", where=str(name), fix=_FIX) from error


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
