"""What an upload takes along: the files that a path stands for, without what is private in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from bp_core.contract import CONTRACT_FILE
from bp_core.errors import AdapterUnusable, BadValue, FileMissing, LedgerUnusable
from bp_core.folders import MANIFEST, damage, digest
from bp_export.config import PushConfig
from bp_export.gguf.reader import GgufFile
from bp_export.hub import Item
from bp_runs import history
from bp_runs.run_folder import RUN_FILE, RunFolder

from ..hints import command
from ..models import locate
from ..models.published import TOKENIZER_FILES, adapter_in, base_of, is_whole, run_of

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
    """What is to be uploaded: an adapter's or model's `folder`, GGUF files, or both, and the run that made them."""

    folder: Path | None
    ggufs: tuple[Gguf, ...]
    run: RunFolder | None
    base: Base | None

    @property
    def kind(self) -> Kind:
        if self.folder:
            return "model" if is_whole(self.folder) else "adapter"
        return "gguf-lora" if self.ggufs[0].is_adapter else "gguf"

    def items(self) -> list[Item]:
        """The files, but for the card."""
        found = [Item(path.name, _clean(path, self.base)) for path in _files(self.folder)] if self.folder else []
        for gguf in self.ggufs:
            found.append(Item(gguf.path.name, gguf.path))
            found += [Item(gguf.proof.name, gguf.proof)] if gguf.parity else []
        return found


def parcel(place: Path, config: PushConfig) -> Parcel:
    """What is meant by a .gguf file, an adapter, model or run folder, or an output folder.

    Raises FileMissing, AdapterUnusable, GgufUnusable, BadValue.
    """
    if not place.exists():
        raise FileMissing("there is no such file or folder.", where=str(place))
    if place.is_file():
        return _of_file(place.resolve(), config)
    folder = adapter_in(place)
    _require_whole(folder)
    run = run_of(folder) or _exporter(folder)
    ggufs = tuple(_exports(folder, run)) if config.gguf else ()
    if config.gguf and not ggufs:
        raise FileMissing("no .gguf file was exported of it.", where=str(place), fix=f"Do {command('export', folder)}")
    return Parcel(folder, ggufs, run, _base(config, base_of(folder) or _configured(folder), run))


def _of_file(file: Path, config: PushConfig) -> Parcel:
    if file.suffix != ".gguf":
        fix = "Name a .gguf file, or the folder of an adapter or a model."
        raise BadValue("this is no file of a model.", where=str(file), fix=fix)
    GgufFile(file)  # whole, or it says so
    run = _exporter(file)
    return Parcel(None, (Gguf(file),), run, _base(config, None, run))


def _require_whole(folder: Path) -> None:
    if (folder / MANIFEST).is_file() and (wrong := damage(folder)):
        raise AdapterUnusable(f"its files are not as they were written: {wrong}.", where=str(folder))
    if not any(folder.glob(_WEIGHTS)):
        raise AdapterUnusable("there are no weights here (*.safetensors).", where=str(folder))


def _files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.is_file() and any(fnmatch(p.name, wanted) for wanted in _WANTED)]


def _exports(folder: Path, run: RunFolder | None) -> Iterator[Gguf]:
    """The whole GGUF models made of a folder: those the run knows, also if the output folder was moved."""
    names = (
        [Path(export["path"]) for export in history.exports_of(run)] if run else sorted(folder.parent.glob("*.gguf"))
    )
    for path in names:
        here = next((place for place in (path, folder.parent / path.name) if place.is_file()), None)
        if here and here.suffix == ".gguf":
            yield Gguf(here)


def _exporter(path: Path) -> RunFolder | None:
    """The run that a file or folder was exported of."""
    beside = [RunFolder(file.parent) for file in sorted(path.parent.glob("runs/*/" + RUN_FILE), reverse=True)]
    known: list[RunFolder] = []
    with suppress(LedgerUnusable):
        known = [RunFolder(Path(entry.folder)) for entry in history.ledger().entries()]
    for run in [*beside, *known]:
        if any(export["path"] == str(path) for export in history.exports_of(run)):
            return run
    return None


def _base(config: PushConfig, named: str | None, run: RunFolder | None) -> Base | None:
    record = run.read() if run else {}
    name = config.base or named or record.get("settings", {}).get("model")
    if name is None:
        return None
    found = locate.hub_id(name)
    place = Path(record.get("base") or name)
    return Base(found or Path(name).name, found, place if place.is_dir() else None)


def _configured(folder: Path) -> str | None:
    """What an adapter from elsewhere calls its base."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        name = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except ValueError as error:
        raise AdapterUnusable("this is not valid JSON.", where=str(path)) from error
    return str(name) if name else None


def _clean(path: Path, base: Base | None) -> Path | bytes:
    """A file as it may leave: where a configuration names a path of this machine, the base's name instead."""
    if not path.name.endswith("config.json"):
        return path
    value = json.loads(path.read_text(encoding="utf-8"))
    paths = {key: value[key] for key in _NAMES if isinstance(value.get(key), str) and Path(value[key]).is_absolute()}
    if not paths:
        return path
    names = {key: base.name if base else Path(said).name for key, said in paths.items()}
    return (json.dumps(value | names, indent=2, ensure_ascii=False) + "\n").encode()
