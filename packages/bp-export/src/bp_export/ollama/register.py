"""Register a GGUF with Ollama: upload, create, check, and give it its name only if all checks pass."""

from __future__ import annotations

import contextlib
import re
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bp_core.errors import (
    AdapterUnusable,
    BadValue,
    GgufUnusable,
    OllamaNameTaken,
    OllamaTooOld,
    OllamaUnreachable,
    TemplateUnusable,
)
from bp_core.events import Notify

from ..chat_template import ChatTemplate
from ..config import ExportConfig
from ..gguf.metadata import GgufFacts, facts_of, is_adapter, require_context
from ..gguf.reader import GgufFile
from ..ollama_names import LONGEST, NAME_FIX, is_name
from .blob import Blob
from .checks import QUESTION, Checks, OllamaCheck
from .client import Ollama
from .drafts import draft, remove_abandoned
from .modelfile import QUOTES, RAW, OllamaSettings, Origin, go_or_none, place_for, read_modelfile, settings_for
from .versions import CONTEXT, OLDEST, RUNS_JINJA, Version, repeat_penalty, shown


@dataclass(frozen=True)
class RegistrationResult:
    """A model in Ollama. `template` is what renders its prompts: the file's "jinja", a "go" template, or "none".

    `removed` are drafts of earlier registrations that were left there.
    """

    name: str
    server: str
    version: str
    digest: str
    uploaded: bool
    template: str
    seen: OllamaCheck
    removed: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def require_ollama(config: ExportConfig, file: Path) -> None:
    """Raise early, before the export, unless Ollama is running and will accept the model's name."""
    name = config.ollama_name or default_name(file)
    try:
        with Ollama() as server:
            _admit(server, name, config)
    except (OllamaUnreachable, OllamaTooOld) as error:
        error.fix = f"{type(error).fix} Then give the same command again; nothing was written yet."
        raise


def register(
    file: Path, config: ExportConfig, *, origin: Origin | None = None, notify: Notify | None = None
) -> RegistrationResult:
    """Register a GGUF as `config.ollama_name`, and check that it behaves in Ollama as in its file.

    Its settings come from `origin`, else from the Modelfile beside it, else from the file; `config` overrides them. If
    a check fails, it raises and leaves nothing under that name.
    """
    gguf = GgufFile(file)
    _refuse_adapter(gguf)
    _refuse_parts(gguf)
    name = config.ollama_name or default_name(file)
    beside = place_for(file)
    if origin is None and beside.is_file():
        template = go_or_none(gguf)
        settings = read_modelfile(beside, [template] if template else [])
    else:
        settings = settings_for(gguf, origin or Origin())
    settings = settings.changed(config)
    facts = facts_of(gguf)
    num_ctx = settings.parameters.get("num_ctx")
    require_context(num_ctx if isinstance(num_ctx, int) else None, facts.context_length, file)
    if settings.system:
        require_place_for(settings.system, ChatTemplate.of(facts))
    with _next_step(file, name), Ollama() as server:
        version = _admit(server, name, config)
        removed = remove_abandoned(server)
        done = _Registration(file, gguf, facts, settings, server, version, notify).run(name)
        return replace(done, removed=tuple(removed))


def default_name(file: Path) -> str:
    """A name that Ollama accepts, made from the file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._")[:LONGEST] or "model"


def require_place_for(system: str, chat: ChatTemplate) -> None:
    """Raise BadValue unless the chat template renders this system message, and a Modelfile can hold it."""
    if QUOTES in system:
        raise BadValue(f"a Modelfile cannot contain {QUOTES}.", fix="Use other quotes in --system.")
    try:
        placed = system.strip() in chat.prompt([{"role": "system", "content": system}, QUESTION])
    except TemplateUnusable:
        placed = False
    if not placed:
        message = "the model's chat template has no place for a system message."
        raise BadValue(message, fix="Leave --system out.")


@dataclass(frozen=True)
class _Registration:
    """One registration, under a temporary name until it is checked."""

    file: Path
    gguf: GgufFile
    facts: GgufFacts
    settings: OllamaSettings
    server: Ollama
    version: Version
    notify: Notify | None

    def run(self, name: str) -> RegistrationResult:
        template = self._template()
        blob = Blob(self.gguf, guarded=template is None, notify=self.notify)
        uploaded = self.server.upload(blob)
        with draft(self.server, name) as unchecked:
            self.server.create(self._request(unchecked.name, blob, template), self.notify)
            seen = Checks(self.file, self.facts, self.settings, self.server, unchecked.name, self.notify).run()
            # What is in memory is there under the draft's name, and would be used for the model's own.
            self.server.unload(unchecked.name)
            self.server.copy(unchecked.name, name)
        left = [unchecked.left] if unchecked.left else []
        seen = replace(seen, notes=(*seen.notes, *self._defaults(), *left))
        kind = "jinja" if template is None else "none" if template == RAW else "go"
        return RegistrationResult(name, self.server.url, shown(self.version), blob.digest, uploaded, kind, seen)

    def _defaults(self) -> list[str]:
        """What Ollama decides because the user's Modelfile does not, where that is not what the model was made for."""
        notes = []
        if "num_ctx" not in self.settings.parameters:
            notes.append(f"the Modelfile has no num_ctx: Ollama's own context counts, {CONTEXT}.")
        penalty = repeat_penalty(self.version)
        if "repeat_penalty" not in self.settings.parameters:
            effect = "which changes answers" if penalty != 1 else "which changes nothing"
            notes.append(f"the Modelfile has no repeat_penalty: Ollama's own counts, {penalty:g}, {effect}.")
        return notes

    def _template(self) -> str | None:
        """The Go template for Ollama; None if it uses the file's own Jinja."""
        if not self.facts.template:
            return RAW
        if self.version >= RUNS_JINJA:
            return None
        template = go_or_none(self.gguf)
        if template is None:
            message = "this chat template cannot be written exactly in Go, which Ollama before 0.30 needs."
            raise OllamaTooOld(f"{message} It is {shown(self.version)}.", where=self.server.url)
        return template

    def _request(self, name: str, blob: Blob, template: str | None) -> dict[str, Any]:
        request: dict[str, Any] = {"model": name, "files": {self.file.name.replace(":", "-"): blob.digest}}
        request["parameters"] = dict(self.settings.parameters)
        given = {"template": template, "system": self.settings.system, "license": self.settings.licence}
        return request | {key: value for key, value in given.items() if value}


def _admit(server: Ollama, name: str, config: ExportConfig) -> Version:
    """The server's version. Raises if it cannot accept a model of this name."""
    if not is_name(name):
        raise BadValue(f"{name!r} is not a valid model name in Ollama.", fix=NAME_FIX)
    version = server.version()
    if version < OLDEST:
        raise OllamaTooOld(f"Ollama {shown(version)} cannot import GGUF files.", where=server.url)
    if not config.ollama_overwrite and server.has(name):
        raise OllamaNameTaken(f"there is a model {name!r} already.", where=server.url)
    return version


def _refuse_parts(gguf: GgufFile) -> None:
    if gguf.parts > 1:
        joined = gguf.path.with_name("whole.gguf")
        fix = f"Join them: llama-gguf-split --merge {shlex.quote(str(gguf.path))} {shlex.quote(str(joined))}"
        raise GgufUnusable(f"Ollama takes one file, and this model is in {gguf.parts}.", where=str(gguf.path), fix=fix)


def _refuse_adapter(gguf: GgufFile) -> None:
    if is_adapter(gguf):
        message = "this is a LoRA adapter, which Ollama refuses since 0.34.1."
        raise AdapterUnusable(message, where=str(gguf.path), fix="Export the merged model: --format gguf.")


@contextlib.contextmanager
def _next_step(file: Path, name: str) -> Any:
    """Add the command to run next to errors about Ollama itself."""
    try:
        yield
    except (OllamaUnreachable, OllamaTooOld) as error:
        error.fix = f"{error.fix} Then: backprop ollama register {shlex.quote(str(file))} {name}"
        raise
