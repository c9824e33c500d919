"""The programs that people run a model in: where each looks for files, and the line that starts a model there.

LM Studio: lmstudio.ai/docs/app/basics/import-model; its folder can be moved, which .lmstudio-home-pointer tells.
Jan: data folder/llamacpp/models/NAME/model.gguf, with a model.yml beside it that the app lists the model by.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_core import folders
from bp_core.errors import OutputUnusable

from .config import NUM_CTX, Program
from .gguf.metadata import gguf_facts

_PUBLISHER = "backpropagate"  # the folder in which LM Studio lists what this project made


@dataclass(frozen=True)
class Placed:
    """Where a program finds the model, and the line that starts it. `installed`: whether the program was found.

    `path` is the file as the program sees it; None where it stayed where it is.
    """

    program: Program
    installed: bool
    command: str
    path: Path | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "path": str(self.path) if self.path else None}


def place(file: Path, program: Program, num_ctx: int | None = None) -> Placed:
    """Put an exported file where a program looks, and say how it is started. Never overwrites. Not for Ollama, where
    models are registered (`bp_export.ollama`).

    Where the program is not installed nothing is put anywhere. Raises OutputUnusable.
    """
    return _PLACES[program](file, num_ctx)


def require_free_place(file: Path, program: Program) -> None:
    """Raise OutputUnusable, before an export, where something lies at the place that the file would get."""
    target = _lmstudio_target(file) if program == "lmstudio" else _jan_target(file) if program == "jan" else None
    if target and os.path.lexists(target):
        raise _taken(target)


def _lmstudio(file: Path, num_ctx: int | None) -> Placed:
    target = _lmstudio_target(file)
    command = f"lms load {_PUBLISHER}/{_name(file)}" + (f" --context-length {num_ctx}" if num_ctx else "")
    if target is None:
        note = f"LM Studio was not found in {Path.home() / '.lmstudio'}. Once it is: lms import --copy {_quoted(file)}"
        return Placed("lmstudio", False, command, note=note)
    return Placed("lmstudio", True, command, _link(file, target))


def _jan(file: Path, num_ctx: int | None) -> Placed:
    target, key = _jan_target(file), _name(file)
    command = f"open Jan, and choose {key}"
    if target is None:
        note = f"Jan was not found in {_jan_config().parent}. Once it is: Settings, Model Providers, llama.cpp, Import."
        return Placed("jan", False, command, note=note)
    _link(file, target)
    _write_jan_model(target, key, file, num_ctx)
    return Placed("jan", True, command, target)


def _llama_cpp(file: Path, num_ctx: int | None) -> Placed:
    found = shutil.which("llama-server")
    context = num_ctx or min(NUM_CTX, gguf_facts(file).exact_context)
    command = f"llama-server --jinja --ctx-size {context} --model {_quoted(file)}"
    note = "" if found else f"llama-server is not on the PATH; ours is: backprop serve {_quoted(file)}"
    return Placed("llama-cpp", bool(found), command, note=note)


def _vllm(folder: Path, num_ctx: int | None) -> Placed:
    found = shutil.which("vllm")
    note = "" if found else "vllm is not on the PATH: pip install vllm, on a machine with a card that it knows."
    return Placed("vllm", bool(found), f"vllm serve {_quoted(folder)}", note=note)


_PLACES: dict[Program, Callable[[Path, int | None], Placed]] = {
    "lmstudio": _lmstudio,
    "jan": _jan,
    "llama-cpp": _llama_cpp,
    "vllm": _vllm,
}


def _lmstudio_target(file: Path) -> Path | None:
    """Where LM Studio looks for the file; None without LM Studio."""
    home = _lmstudio_home()
    return home / "models" / _PUBLISHER / _name(file) / file.name if home else None


def _jan_target(file: Path) -> Path | None:
    """Where Jan looks for the file; None without Jan."""
    data = _jan_data()
    return data / "llamacpp" / "models" / _name(file) / "model.gguf" if data else None


def _lmstudio_home() -> Path | None:
    """LM Studio's folder, if it has run on this machine."""
    pointer = Path.home() / ".lmstudio-home-pointer"
    places = [Path.home() / ".lmstudio", Path.home() / ".cache" / "lm-studio"]
    if pointer.is_file():
        places.insert(0, Path(pointer.read_text(encoding="utf-8").strip()))
    return next((place for place in places if place.is_dir()), None)


def _jan_config() -> Path:
    """Jan's settings, which name its data folder."""
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", Path.home() / "AppData" / "Roaming")) / "Jan" / "settings.json"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "Jan" / "settings.json"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "Jan" / "settings.json"


def _jan_data() -> Path | None:
    """Jan's data folder, if it has run on this machine."""
    config = _jan_config()
    try:
        named = Path(str(json.loads(config.read_text(encoding="utf-8"))["data_folder"]))
        if named.is_dir():
            return named
    except (OSError, ValueError, KeyError, TypeError):
        pass
    own = config.parent / "data"
    return own if own.is_dir() else None


def _write_jan_model(target: Path, key: str, file: Path, num_ctx: int | None) -> None:
    """Jan's own description of a model. One that is there stays."""
    description = target.with_name("model.yml")
    if description.exists():
        return
    lines = [
        f"model_path: {json.dumps(f'llamacpp/models/{key}/model.gguf')}",
        f"name: {json.dumps(key)}",
        f"size_bytes: {file.stat().st_size}",
        "embedding: false",
    ]
    lines += [f"ctx_len: {num_ctx}"] if num_ctx else []
    with folders.new_file(description) as draft:
        draft.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _link(source: Path, target: Path) -> Path:
    """The same file at another place: as a hard link, else as a copy. Raises OutputUnusable where another lies."""
    if os.path.lexists(target):
        if target.is_file() and _equal(source, target):
            return target
        raise _taken(target)
    with folders.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), target)
            return target
        except FileExistsError:
            raise
        except OSError:  # another disk, or one without hard links
            pass
    with folders.new_file(target) as draft:
        shutil.copyfile(source, draft)
    return target


def _taken(target: Path) -> OutputUnusable:
    message = "something lies where the program would find the model."
    return OutputUnusable(message, where=str(target), fix="Move it away, or export under another name: --output.")


def _equal(source: Path, target: Path) -> bool:
    if source.samefile(target):
        return True
    return source.stat().st_size == target.stat().st_size and folders.digest(source) == folders.digest(target)


def _name(file: Path) -> str:
    """A name that is a folder's name in every program."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._") or "model"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
