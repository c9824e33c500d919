"""The folders that the page shows, and no file beyond them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bp_core.errors import BadValue, FileMissing

UPLOADS, HERE = "uploads", "here"
# The endings that bp_data reads, also compressed.
ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".md", ".parquet", ".arrow", ".feather")
_PACKED = (".gz", ".zst")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LISTED = 500  # files of a folder
_DEPTH = 3  # folders below a root
_SEEN = 20_000  # entries looked at in all, so that a huge tree costs no minutes
# What is never data, and may be large.
_SKIPPED = {"node_modules", "__pycache__", "runs", "checkpoints", "site-packages", "venv", "lora", "model", "multi-run"}


@dataclass(frozen=True)
class DataFile:
    """A data file: its address on the page, such as uploads/rows.jsonl, and where it is."""

    address: str
    path: Path
    bytes: int
    changed: float


@dataclass(frozen=True)
class Folders:
    """`roots` by the name that begins an address; `private`: files and folders not shown below any root but uploads."""

    roots: dict[str, Path]
    private: tuple[Path, ...]

    @classmethod
    def of(cls, more: str, home: Path, keys: Sequence[Path]) -> Folders:
        """This folder, the uploads, and `more` with commas between. Raises BadValue."""
        uploads = home / UPLOADS
        uploads.mkdir(parents=True, exist_ok=True)
        roots = {HERE: Path.cwd().resolve(), UPLOADS: uploads.resolve()}
        for name in filter(None, (part.strip() for part in more.split(","))):
            path = Path(name).expanduser().resolve()
            if not path.is_dir():
                raise BadValue(f"root names {name!r}, which is no folder.")
            roots[_free_name(path, roots)] = path
        return cls(roots, tuple(path.resolve() for path in (home, *keys)))

    def find(self, address: str) -> Path:
        """The file at an address. Raises FileMissing, with the same words for all that is not shown."""
        name, _, rest = address.partition("/")
        parts = rest.split("/") if rest else []
        root = self.roots.get(name)
        if root is None or any(not is_plain(part) for part in parts):
            raise _missing()
        path = root.joinpath(*parts)
        real = Path(os.path.realpath(path))
        if not self.shows(real) or not real.is_file():
            raise _missing()
        return real

    def shows(self, real: Path) -> bool:
        """Whether a resolved path is below a root, and neither hidden nor private."""
        uploaded = real.is_relative_to(self.roots[UPLOADS])
        if not uploaded and any(real.is_relative_to(secret) for secret in self.private):
            return False
        inside = [real.relative_to(root) for root in self.roots.values() if real.is_relative_to(root)]
        return any(all(is_plain(part) for part in path.parts) for path in inside)

    def address_of(self, path: Path) -> str | None:
        """The address of a path; None for one that the page does not show."""
        real = Path(os.path.realpath(path))
        if not self.shows(real):
            return None
        name, root = max(
            ((name, root) for name, root in self.roots.items() if real.is_relative_to(root)),
            key=lambda found: len(found[1].parts),
        )
        return "/".join([name, *real.relative_to(root).parts])

    def data_files(self) -> list[DataFile]:
        """The data files below the roots, the newest first."""
        found: dict[Path, DataFile] = {}
        for name, root in self.roots.items():
            for path in _walk(root):
                if is_data(path.name) and self.shows(Path(os.path.realpath(path))):
                    stat = path.stat()
                    address = "/".join([name, *path.relative_to(root).parts])
                    found.setdefault(path, DataFile(address, path, stat.st_size, stat.st_mtime))
        return sorted(found.values(), key=lambda file: -file.changed)[:_LISTED]


def is_data(name: str) -> bool:
    """Whether a name ends as a data file's does."""
    lower = name.lower()
    for packed in _PACKED:
        lower = lower.removesuffix(packed)
    return lower.endswith(ENDINGS)


def is_plain(part: str) -> bool:
    """Whether one part of a path is an ordinary name: not hidden, not a way up, not another system's device."""
    if not part or part.startswith((".", "~")) or part != part.strip() or part.endswith("."):
        return False
    if any(sign in part for sign in '\\/:*?"<>|') or any(ord(sign) < 32 or ord(sign) == 127 for sign in part):
        return False
    return _DEVICES.fullmatch(part) is None


def _walk(root: Path) -> Iterator[Path]:
    """The plain files below a root, not too deep, without following links to folders."""
    seen = 0
    for folder, below, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        kept = [name for name in below if is_plain(name) and name not in _SKIPPED]
        below[:] = sorted(kept) if depth < _DEPTH else []
        for name in sorted(files):
            seen += 1
            if seen > _SEEN:
                return
            path = Path(folder, name)
            if is_plain(name) and path.is_file():
                yield path


def _free_name(path: Path, taken: dict[str, Path]) -> str:
    name = path.name if is_plain(path.name) else "folder"
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free


def _missing() -> FileMissing:
    return FileMissing("there is no such file here.", fix="Choose one of the list; `backprop ui --root` adds folders.")
