"""A GGUF becomes a model in Ollama: uploaded, created, looked at, and named once it behaves as in its file."""

from __future__ import annotations

import contextlib
import re
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bp_core.errors import (
    AdapterUnusable,
    BackpropagateError,
    BadValue,
    OllamaNameTaken,
    OllamaTooOld,
    OllamaUnreachable,
    TemplateUnusable,
)
from bp_core.events import Notify

from ..chat_template import Chat
from ..config import ExportConfig
from ..gguf.metadata import GgufFacts, facts_of
from ..gguf.reader import GgufFile
from .blob import Blob
from .checks import QUESTION, Checks, Seen
from .client import Ollama, Version
from .modelfile import QUOTES, RAW, Origin, Setup, go_or_none, place_for, read_modelfile, setup_of

OLDEST: Version = (0, 5, 5)  # /api/create takes uploaded files
RUNS_JINJA: Version = (0, 30, 0)  # every GGUF runs in llama-server, which renders the template in the file
_NAME = re.compile(
    r"(?:[\w.-]+(?::\d+)?/)?(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]{0,79}(?::[A-Za-z0-9][\w.-]{0,79})?"
)


@dataclass(frozen=True)
class Registered:
    """A model in Ollama. `template` says who writes its prompt: the file's own "jinja", a "go" template, or "none"."""

    name: str
    server: str
    version: str
    digest: str
    uploaded: bool
    template: str
    seen: Seen

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def require_ollama(config: ExportConfig, file: Path) -> None:
    """Before long work: raise unless an Ollama is there that will take the result. Knows nothing of the file yet."""
    name = config.ollama_name or default_name(file)
    try:
        with Ollama() as server:
            _admit(server, name, config)
    except (OllamaUnreachable, OllamaTooOld) as error:
        error.fix = f"{type(error).fix} Then give the same command again; nothing was written yet."
        raise


def register(
    file: Path, config: ExportConfig, *, origin: Origin | None = None, notify: Notify | None = None
) -> Registered:
    """Give Ollama a GGUF, under `config.ollama_name`, and see that it behaves there as in its file.

    How it is to run: from `origin`, or as the Modelfile beside it says, or from the file; then what `config` sets.
    Raises what the checks find, and leaves nothing under the name then.
    """
    gguf = GgufFile(file)
    _refuse_adapter(gguf)
    name = config.ollama_name or default_name(file)
    beside = place_for(file)
    setup = read_modelfile(beside) if origin is None and beside.is_file() else setup_of(gguf, origin or Origin())
    setup = setup.changed(config)
    facts = facts_of(gguf)
    if setup.system:
        require_place_for(setup.system, Chat.of(facts))
    with _next_step(file, name), Ollama() as server:
        version = _admit(server, name, config)
        return _Registration(file, gguf, facts, setup, server, version, notify).run(name)


def default_name(file: Path) -> str:
    """A name for a file's model that Ollama accepts."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._") or "model"


def require_place_for(system: str, chat: Chat) -> None:
    """Raise BadValue unless the chat template writes this system message, and a Modelfile can hold it."""
    if QUOTES in system:
        raise BadValue(f"a Modelfile cannot hold a text with {QUOTES} in it.", fix="Write it with other quotes.")
    try:
        placed = system.strip() in chat.prompt([{"role": "system", "content": system}, QUESTION])
    except TemplateUnusable:
        placed = False
    if not placed:
        message = "the model's chat template has no place for a system message."
        raise BadValue(message, fix="Leave --system out.")


@dataclass(frozen=True)
class _Registration:
    """One registration, under a name of its own until it is checked."""

    file: Path
    gguf: GgufFile
    facts: GgufFacts
    setup: Setup
    server: Ollama
    version: Version
    notify: Notify | None

    def run(self, name: str) -> Registered:
        template = self._template()
        blob = Blob(self.gguf, guarded=template is None, notify=self.notify)
        uploaded = self.server.upload(blob)
        draft = f"{name if ':' in name.rpartition('/')[2] else name + ':latest'}-unchecked"
        try:
            self.server.create(self._request(draft, blob, template), self.notify)
            seen = Checks(self.file, self.facts, self.setup, self.server, draft).run(self.notify)
            self.server.copy(draft, name)
        finally:
            with contextlib.suppress(BackpropagateError):  # it may not exist, and the first error is the one to tell
                self.server.remove(draft)
        kind = "jinja" if template is None else "none" if template == RAW else "go"
        version = ".".join(map(str, self.version))
        return Registered(name, self.server.url, version, blob.digest, uploaded, kind, seen)

    def _template(self) -> str | None:
        """What Ollama is told to render with; None: the file's own Jinja."""
        if not self.facts.template:
            return RAW
        if self.version >= RUNS_JINJA:
            return None
        template = go_or_none(self.gguf)
        if template is None:
            message = "this chat template has no exact form in Go, which Ollama before 0.30 needs."
            raise OllamaTooOld(f"{message} It is {'.'.join(map(str, self.version))}.", where=self.server.url)
        return template

    def _request(self, name: str, blob: Blob, template: str | None) -> dict[str, Any]:
        request: dict[str, Any] = {"model": name, "files": {self.file.name.replace(":", "-"): blob.digest}}
        request["parameters"] = dict(self.setup.parameters)
        given = {"template": template, "system": self.setup.system, "license": self.setup.licence}
        return request | {key: value for key, value in given.items() if value}


def _admit(server: Ollama, name: str, config: ExportConfig) -> Version:
    """The server's version, if it can take a model of this name."""
    if not _NAME.fullmatch(name):
        raise BadValue(f"{name!r} is no name for Ollama.", fix="Use letters, digits, - _ . and at most one :tag.")
    version = server.version()
    if version < OLDEST:
        raise OllamaTooOld(f"it is {'.'.join(map(str, version))}, and takes no files.", where=server.url)
    if not config.ollama_overwrite and server.has(name):
        raise OllamaNameTaken(f"there is a model {name!r} already.", where=server.url)
    return version


def _refuse_adapter(gguf: GgufFile) -> None:
    if gguf.fields.get("general.type") == "adapter":
        message = "this is a LoRA adapter, which Ollama refuses since 0.34.1."
        raise AdapterUnusable(message, where=str(gguf.path), fix="Export the merged model: --format gguf.")


@contextlib.contextmanager
def _next_step(file: Path, name: str) -> Any:
    """Tell who has no running Ollama how to go on."""
    try:
        yield
    except (OllamaUnreachable, OllamaTooOld) as error:
        error.fix = f"{type(error).fix} Then: backprop ollama register {shlex.quote(str(file))} {name}"
        raise
