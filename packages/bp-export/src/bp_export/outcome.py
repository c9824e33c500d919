"""What an export ends with: the file or folder with its proof beside it, or NotProven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bp_core import folders
from bp_core.errors import NotProven
from bp_core.units import gigabytes

from .config import ExportFormat
from .ollama import RegistrationResult
from .output_paths import BESIDE, report_of
from .parity import Parity
from .programs import Placed

NONE_KEEPS = "none of up to 8 bits keeps it; use --quantization f16, or train more"


@dataclass(frozen=True)
class Export:
    """The exported file or folder. Fields with a default are for GGUF files only.

    `parity` is the proof, also written to `parity_path`. `importance_path` is the importance matrix that quantising
    used. `modelfile` is for Ollama. `ollama` is set if the model was registered there, `placed` if another program was
    named to run it. `origins` says where tokenizer, chat template and end of turn are from.
    """

    path: Path
    format: ExportFormat
    bytes: int
    quantization: str | None = None
    sha256: str | None = None
    parity: Parity | None = None
    parity_path: Path | None = None
    modelfile: Path | None = None
    importance_path: Path | None = None
    ollama: RegistrationResult | None = None
    placed: Placed | None = None
    origins: Mapping[str, str] = field(default_factory=dict)


def write_report(file: Path, parity: Parity, digest: str, size: int, beside: Sequence[Path] = ()) -> Path:
    """Write the proof of `file` beside it, with the names of the other files there. Returns its path."""
    report = report_of(file)
    written = {"file": file.name, "sha256": digest, "bytes": size, BESIDE: [path.name for path in beside]}
    folders.write_json(report, written | parity.as_dict())
    return report


def not_proven(parity: Parity, kept: str, file: Path) -> NotProven:
    """The error for a file that failed its proof. `kept` says what happened to the file."""
    message = f"the file is not proven to be the model that was trained; {parity.verdict}. {kept}"
    fix = None
    if parity.trials:
        smallest = next((trial for trial in parity.trials if trial.kept), None)
        finer = NONE_KEEPS
        if smallest:
            finer = f"--quantization {smallest.quantization} ({gigabytes(smallest.bytes)}) keeps it"
        fix = f"{parity.quantization} loses too much of what was learned: {finer}."
    rows = [check.as_row() for check in parity.failures]
    return NotProven(message, where=str(file), fix=fix, checks=rows)
