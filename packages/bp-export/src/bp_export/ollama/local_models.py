"""Models that a local Ollama keeps on disk: a name → the GGUF behind it, by Ollama's manifests."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bp_core.errors import ModelNotFound, UnsupportedArchitecture

PREFIX = "ollama:"
_REGISTRY, _OWNER, _TAG = "registry.ollama.ai", "library", "latest"  # what a short name leaves out
_MODEL = "application/vnd.ollama.image.model"
_ADAPTER = "application/vnd.ollama.image.adapter"
_DIGEST = re.compile(r"sha256[:-][0-9a-f]{64}")


def models_folder() -> Path:
    """Where Ollama keeps its models: OLLAMA_MODELS, the user's own folder, or that of the service on Linux."""
    if chosen := os.environ.get("OLLAMA_MODELS"):
        return Path(chosen).expanduser()
    own, service = Path.home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")
    return service if service.is_dir() and not own.is_dir() else own


def model_file(name: str, folder: Path | None = None) -> Path:
    """The GGUF of a model that Ollama calls `name`, such as gemma3:270m or owner/model.

    Raises ModelNotFound, also for a name it does not have, and UnsupportedArchitecture for one that is not one GGUF.
    """
    folder = folder or models_folder()
    if not (folder / "manifests").is_dir():
        fix = "Set OLLAMA_MODELS to the folder that has Ollama's manifests and blobs."
        raise ModelNotFound("no Ollama keeps models here.", where=str(folder), fix=fix)
    manifest = folder / "manifests" / _place(name)
    if not manifest.is_file():
        raise ModelNotFound(_unknown(name, folder))
    layers = _layers(manifest)
    digests = [str(layer.get("digest")) for layer in layers if layer.get("mediaType") == _MODEL]
    adapters = [layer for layer in layers if layer.get("mediaType") == _ADAPTER]
    if len(digests) != 1 or adapters:
        what = "a base with an adapter" if adapters else f"{len(digests)} files of weights"
        raise UnsupportedArchitecture(f"{PREFIX}{name} is {what}, not one GGUF.", where=str(manifest))
    if not _DIGEST.fullmatch(digests[0]):
        raise ModelNotFound(f"the manifest names no file, but {digests[0]!r}.", where=str(manifest))
    blob = folder / "blobs" / digests[0].replace(":", "-")
    if not blob.is_file():
        raise ModelNotFound(f"{PREFIX}{name} has lost its weights; get them again: ollama pull {name}", where=str(blob))
    return blob


def installed(folder: Path) -> list[str]:
    """The names of all models there, as Ollama lists them."""
    return sorted(_names(folder / "manifests"))


def _place(name: str) -> Path:
    """Where a name's manifest lies: host/owner/model/tag, of which all but the model may be left out."""
    path, _, tag = name.rpartition(":") if ":" in name.rsplit("/", 1)[-1] else (name, "", _TAG)
    parts = path.split("/")
    host, owner, model = [*(_REGISTRY, _OWNER)[: 3 - len(parts)], *parts] if len(parts) <= 3 else ("", "", "")
    if not all(re.fullmatch(r"[\w][\w.:-]*", part) for part in (host, owner, model, tag)):
        raise ModelNotFound(f"{name!r} is no name that Ollama gives.")
    return Path(host, owner, model, tag)


def _names(manifests: Path) -> Iterator[str]:
    for file in manifests.glob("*/*/*/*"):
        host, owner, model, tag = file.relative_to(manifests).parts
        if host != _REGISTRY:
            yield f"{host}/{owner}/{model}:{tag}"
        else:
            yield f"{model}:{tag}" if owner == _OWNER else f"{owner}/{model}:{tag}"


def _unknown(name: str, folder: Path) -> str:
    known = installed(folder)
    near = difflib.get_close_matches(name if ":" in name else f"{name}:{_TAG}", known, 1)
    hint = f"did you mean {PREFIX}{near[0]}?" if near else f"it has {', '.join(known) or 'none'}."
    return f"Ollama has no model {name!r} in {folder}; {hint}"


def _layers(manifest: Path) -> list[dict[str, Any]]:
    try:
        layers = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
        return [layer for layer in layers if isinstance(layer, dict)]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelNotFound(f"Ollama's manifest cannot be read ({error}).", where=str(manifest)) from error
