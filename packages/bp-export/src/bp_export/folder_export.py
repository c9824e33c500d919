"""An export of a folder: the adapter alone, or the whole model, which is proven to end its answers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bp_core import folders
from bp_core.errors import AdapterUnusable
from bp_core.events import Notify
from bp_core.examples import Sample
from bp_core.model_files import VOCABULARY

from . import model_folder
from .config import ExportConfig
from .outcome import Export, not_proven
from .output_paths import replacing, require_free, require_space
from .progress import tracked
from .proof.folder_check import check_folder
from .proof.trained_model import Reference
from .trained_tokenizer import TrainedTokenizer, copy_tokenizer
from .weights import adapter as lora
from .weights.merge import write_merged

_NO_ADAPTER = "Use --format merged for the whole model, or gguf."


@dataclass(frozen=True)
class FolderExport:
    """An export of a folder: the adapter alone, or the whole model, which is proven to end its answers."""

    adapter: Path | None
    base: Path
    config: ExportConfig
    target: Path
    tokenizer: TrainedTokenizer
    notify: Notify | None

    def run(self, reference: Reference | None, samples: Sequence[Sample]) -> Export:
        if self.config.format == "lora" and self.adapter is None:
            raise no_adapter(self.base)
        contract = self.tokenizer.contract
        parity, report = None, None
        with replacing(self.target) as place:
            self._write(place)
            if self.config.format == "merged" and contract:
                parity = check_folder(place, contract, reference, samples, self.notify)
                if not parity.proven:
                    raise not_proven(parity, f"It lies in {place}.", self.target)
        if parity:
            report = self.target.with_name(f"{self.target.name}.parity.json")
            folders.write_json(report, {"folder": self.target.name, **parity.as_dict()})
        return Export(self.target, self.config.format, size_of(self.target), parity=parity, parity_path=report)

    def _write(self, place: Path) -> None:
        if self.adapter and self.config.format == "merged":
            write_merged(self.adapter, self.base, place, self.notify, tokenizer=self.tokenizer)
            return
        if self.adapter:
            lora.check_folder(self.adapter)
        _copy(self.adapter or self.base, place, self.tokenizer, self.notify)


def no_adapter(model: Path) -> AdapterUnusable:
    return AdapterUnusable("all weights were trained: there is no adapter.", where=str(model), fix=_NO_ADAPTER)


def _copy(folder: Path, target: Path, tokenizer: TrainedTokenizer, notify: Notify | None) -> None:
    """Copy what was trained, and complete it: the chat template of training, and the ends of a turn."""
    require_free(target)
    require_space(target, size_of(folder))
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != folders.MANIFEST]
    with folders.new_folder(target) as draft:
        for path in tracked(files, "copy", notify):
            copy = draft / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        if tokenizer.folder != folder and not (draft / VOCABULARY).is_file():
            copy_tokenizer(tokenizer.folder, draft)
        if tokenizer.contract:
            model_folder.complete(draft, tokenizer.contract)


def size_of(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
