"""A GGUF as the model to train: a file, or one that a local Ollama keeps; unpacked once to a Hugging Face folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bp_core.errors import FileMissing, OutputUnusable
from bp_core.events import Notify, Progress
from bp_core.folders import MANIFEST, home
from bp_core.model_files import read_json
from bp_export import unpack_gguf
from bp_export.gguf.reader import GgufFile
from bp_export.gguf.to_huggingface import SOURCE
from bp_export.gguf.unpacked_tensors import dequantized_types
from bp_export.ollama.local_models import PREFIX, model_file

_SAMPLES, _SAMPLE = 64, 1 << 16
_NOT_IN_NAMES = re.compile(r"[^\w.-]")


@dataclass(frozen=True)
class GgufSource:
    """A GGUF to train on: the file, and what the folder that it is unpacked to is called after."""

    file: Path
    label: str

    @property
    def folder(self) -> Path:
        """Where it is unpacked: each content has a folder of its own, named so where weights were quantised."""
        digest = hashlib.sha256()
        for part in samples(self.file):
            digest.update(part)
        kind = "-dequantized" if dequantized_types(GgufFile(self.file)) else ""
        return model_store() / f"{self.label}{kind}-{digest.hexdigest()[:12]}"


def model_store() -> Path:
    """The folder for models that are unpacked on this machine."""
    return home() / "models"


def gguf_source(name: str) -> GgufSource | None:
    """The file behind `FILE.gguf` or `ollama:NAME`; None for any other name.

    Raises FileMissing, ModelNotFound, UnsupportedArchitecture.
    """
    if name.startswith(PREFIX):
        model = name.removeprefix(PREFIX)
        return GgufSource(model_file(model), _NOT_IN_NAMES.sub("-", model))
    file = Path(name).expanduser()
    if file.suffix.lower() != ".gguf" or file.is_dir():
        return None
    if not file.is_file():
        raise FileMissing("there is no such file.", where=name)
    return GgufSource(file, file.stem)


def unpacked(source: GgufSource, notify: Notify) -> Path:
    """The Hugging Face folder of a GGUF, written when it is first asked for. Raises what `unpack_gguf` raises."""
    folder = source.folder
    if (folder / MANIFEST).is_file():  # the folder got its name when it was whole
        return folder
    notify(Progress(f"unpack {source.file.name}", 0, 0))
    try:
        unpack_gguf(source.file, folder, notify)
    except OutputUnusable:
        if not (folder / MANIFEST).is_file():  # else another process was quicker
            raise
    return folder


def loss_by_quantization(folder: Path) -> str | None:
    """What a user should know of a folder whose weights came out of a quantised GGUF; None for any other folder."""
    if not (folder / SOURCE).is_file():
        return None
    record = read_json(folder / SOURCE)
    formats = ", ".join(record.get("dequantized_from") or ())
    if not formats:
        return None
    return (
        f"the weights are those of {record.get('file')}, dequantised from {formats}: training starts from what these "
        "formats kept of the model."
    )


def samples(path: Path) -> Iterator[bytes]:
    """Parts of a file from all over it: 64 of 64 KiB, which tell two trainings of a model apart in milliseconds."""
    size = path.stat().st_size
    with path.open("rb") as file:
        for place in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE) * place // (_SAMPLES - 1))
            yield file.read(_SAMPLE)
