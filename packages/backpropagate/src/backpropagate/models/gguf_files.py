"""The .gguf files in a folder."""

from __future__ import annotations

import re
from pathlib import Path

_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", re.I)


def by_age(folder: Path) -> list[Path]:
    """The .gguf files in a folder, the newest last; of a split model its first file."""
    files = [path for path in folder.iterdir() if is_gguf(path) and not _LATER_PART.search(path.name)]
    return sorted(files, key=lambda file: file.stat().st_mtime)


def is_gguf(path: Path) -> bool:
    return path.suffix.lower() == ".gguf"
