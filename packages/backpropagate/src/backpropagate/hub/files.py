"""What an upload takes along: the files that a path stands for, without what is private in them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from bp_core.contract import CONTRACT_FILE
from bp_core.errors import AdapterUnusable, BadValue, FileMissing
from bp_core.folders import MANIFEST, damage, digest
from bp_export.config import PushConfig
from bp_export.gguf.reader import GgufFile
from bp_export.hub import Item
from bp_export.trained_tokenizer import TEMPLATE, TOKENIZER_FILES
from bp_export.weights.model_files import chat_template
from bp_plan.presets import Preset, of_hub_id

from ..hints import command
from ..models import locate
from ..models.targets import Artifact

Kind = Literal["adapter", "model", "gguf", "gguf-lora"]
# Nothing else of a folder is uploaded: run.json, manifest.json and whatever was put there stay.
_WEIGHTS = "*.safetensors"
_WANTED = (
    *(_WEIGHTS, "*.safetensors.index.json", "adapter_config.json", "config.json", "generation_config.json"),
    *(CONTRACT_FILE, *TOKENIZER_FILES, "LICENSE", "LICENSE.txt"),
)
_NAMES = ("base_model_name_or_path", "_name_or_path", "name_or_path")  # keys that may hold a path of this machine


@dataclass(frozen=True)
class Base:
    """What was trained from. `name` is its hub id, or what a folder was called; `folder` is where it lies here."""

    name: str
    hub_id: str | None = None
    folder: Path | None = None

    @property
    def preset(self) -> Preset | None:
        return of_hub_id(self.hub_id) if self.hub_id else None


@dataclass(frozen=True)
class Gguf:
    """A GGUF file."""

    path: Path

    @cached_property
    def is_adapter(self) -> bool:
        return GgufFile(self.path).fields.get("general.type") == "adapter"

    @property
    def proof(self) -> Path:
        return self.path.with_suffix(".parity.json")

    @cached_property
    def parity(self) -> dict[str, Any] | None:
        """What the proof of this very file says; None where there is none."""
        if not self.proof.is_file():
            return None
        value: dict[str, Any] = json.loads(self.proof.read_text(encoding="utf-8"))
        same = value.get("bytes") == self.path.stat().st_size and value.get("sha256") == digest(self.path)
        return value if same else None


@dataclass(frozen=True)
class Parcel:
    """What is to be uploaded: the folder of an adapter or model with the GGUF files made of it, or a GGUF file."""

    source: Artifact
    ggufs: tuple[Gguf, ...]
    base: Base | None

    @property
    def kind(self) -> Kind:
        if self.source.folder:
            return "model" if self.source.is_whole else "adapter"
        return "gguf-lora" if self.ggufs[0].is_adapter else "gguf"

    def items(self) -> list[Item]:
        """The files, but for the card."""
        folder = self.source.folder
        files = _files(folder) if folder else []
        found = [Item(path.name, _clean(path, self.base)) for path in files]
        contract = self.source.contract
        if folder and contract and contract.template != chat_template(folder):  # an older folder lacks it
            found = [item for item in found if item.name != TEMPLATE]
            found.append(Item(TEMPLATE, contract.template.encode()))
        for gguf in self.ggufs:
            found.append(Item(gguf.path.name, gguf.path))
            found += [Item(gguf.proof.name, gguf.proof)] if gguf.parity else []
        return found


def parcel(name: str | Path, config: PushConfig) -> Parcel:
    """What is to be uploaded of what a name stands for.

    Raises TargetNotFound, FileMissing, AdapterUnusable, GgufUnusable, BadValue.
    """
    source = Artifact.find(name)
    if source.file:
        file = source.file.resolve()
        if file.suffix.lower() != ".gguf":
            fix = "Name a .gguf file, or the folder of an adapter or a model."
            raise BadValue("this is no file of a model.", where=str(file), fix=fix)
        GgufFile(file)  # whole, or it says so
        return Parcel(source, (Gguf(file),), _base(config, source))
    folder = source.require_folder()
    _require_whole(folder)
    ggufs = tuple(map(Gguf, source.exports)) if config.gguf else ()
    if config.gguf and not ggufs:
        raise FileMissing("no .gguf file was exported of it.", where=str(name), fix=f"Do {command('export', folder)}")
    return Parcel(source, ggufs, _base(config, source))


def _require_whole(folder: Path) -> None:
    if (folder / MANIFEST).is_file() and (wrong := damage(folder)):
        raise AdapterUnusable(f"its files are not as they were written: {wrong}.", where=str(folder))
    if not any(folder.glob(_WEIGHTS)):
        raise AdapterUnusable("there are no weights here (*.safetensors).", where=str(folder))


def _files(folder: Path) -> list[Path]:
    wanted = {path for pattern in _WANTED for path in folder.glob(pattern)}
    return sorted(path for path in wanted if path.is_file())


def _base(config: PushConfig, source: Artifact) -> Base | None:
    record = source.record
    name = config.base or source.base or record.get("settings", {}).get("model")
    if name is None:
        return None
    found = locate.hub_id(name)
    place = Path(record.get("base") or name)
    return Base(found or Path(name).name, found, place if place.is_dir() else None)


def _clean(path: Path, base: Base | None) -> Path | bytes:
    """A file as it may leave: where a configuration names a path of this machine, the base's name instead."""
    if not path.name.endswith("config.json"):
        return path
    value = json.loads(path.read_text(encoding="utf-8"))
    texts = {key: value[key] for key in _NAMES if isinstance(value.get(key), str)}
    paths = {key: text for key, text in texts.items() if Path(text).is_absolute()}
    if not paths:
        return path
    for key, said in paths.items():
        value[key] = base.name if base else Path(said).name
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
