"""An adapter in PEFT's own layout, for programs that read nothing else: its names mapped, its factors turned."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bp_core import folders
from bp_core.adapter_config import CONFIG, WEIGHTS
from bp_core.errors import OutputUnusable

from . import safetensors_file
from .adapter_file import AdapterFile


def in_peft_layout(file: AdapterFile) -> Path:
    """The adapter's folder where PEFT reads it as it is, else a translation of it, written when it is first asked for.

    Raises AdapterUnusable.
    """
    if file.native:
        return file.folder
    content = f"{folders.digest(file.file)} {folders.digest(file.folder / CONFIG)}"
    target = folders.home() / "adapters" / hashlib.sha256(content.encode()).hexdigest()[:16]
    if (target / folders.MANIFEST).is_file():
        return target
    try:
        with folders.new_folder(target) as draft:
            for _ in safetensors_file.write(draft / WEIGHTS, file, file.names()):
                pass
            folders.write_json(draft / CONFIG, dict(file.values))
    except OutputUnusable:
        if not (target / folders.MANIFEST).is_file():  # else another process was quicker
            raise
    return target
