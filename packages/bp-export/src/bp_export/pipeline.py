"""Adapter + base → a file or folder to hand over. A GGUF gets its name only once it is proven."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bp_core import folders
from bp_core.errors import AdapterUnusable, BackpropagateError, FileMissing, LlamaCppFailed, NotProven, OutputUnusable
from bp_core.events import Notify, Progress
from bp_core.examples import Sample

from . import ollama
from .chat_template import Chat
from .config import ExportConfig, ExportFormat, Quantization
from .gguf import vocabulary
from .gguf.convert import Converter
from .gguf.lora import LoraConverter
from .gguf.reader import GgufFile
from .llama_cpp.engine import require_llama_cpp
from .ollama import Registered
from .output_paths import replacing, require_free, require_replaceable, require_space
from .parity import Parity
from .proof.prover import SURVIVED, Prover, Reference, Subject
from .quantization.ggml import require_ggml
from .quantization.quantize import quantize
from .weights import adapter as lora
from .weights.merge import write_merged
from .weights.model_files import special_token

_CONVERTED = ("f16", "bf16", "q8_0")  # from the weights themselves; the others are made of the f16 file
# A final file is at most this share of the f16 one, which must fit on the disk beside it; q8_0 has the largest rows.
_SHARE = {"f16": 0.0, "bf16": 1.0}
_PACKED_SHARE = 0.54
_FINER = "Too little was learned for so few bits: use a finer --quantization (q5_k_m, q6_k, q8_0), or train more."
_NO_ADAPTER = "Use --format merged for the whole model, or gguf."


@dataclass(frozen=True)
class Export:
    """What was written. What has a default belongs to GGUF files only.

    `parity` is at `parity_path`, too; `modelfile` is for Ollama by hand; `ollama` is there if that was wanted.
    """

    path: Path
    format: ExportFormat
    bytes: int
    quantization: Quantization | None = None
    sha256: str | None = None
    parity: Parity | None = None
    parity_path: Path | None = None
    modelfile: Path | None = None
    ollama: Registered | None = None


def export(
    adapter: Path | None,
    base: Path,
    config: ExportConfig,
    *,
    name: str | None = None,
    reference: Reference | None = None,
    samples: Sequence[Sample] = (),
    losses: Mapping[str, float] | None = None,
    notify: Notify | None = None,
    written: Callable[[Export], None] | None = None,
) -> Export:
    """Export the PEFT folder `adapter`, trained on the Hugging Face folder `base`; or `base`, if it was trained itself.

    `name` is what the model is called, by default after its folder. `reference` is a rail already opened on both in
    float32, `samples` rows to compare on; without them a GGUF is proven against its merged weights and on fixed texts.
    `losses`, of other forms of the model on the same rows, are put beside those of the proof. `written` is told of what
    has got its name, before Ollama gets it. Raises NotProven, with the file kept as NAME.unproven.gguf, and the errors
    of each step; then nothing is left, except that an error of Ollama's leaves the file.
    """
    if not base.is_dir():
        raise FileMissing("there is no such model folder.", where=str(base))
    name = name or model_name(base)
    target = _target(adapter or base, name, config)
    require_replaceable(target, overwrite=config.overwrite)
    if config.format == "gguf":
        done, origin = _Gguf(adapter, base, name, config, target, notify).run(reference, samples, losses or {})
    else:
        done, origin = _export_other(adapter, base, name, config, target, notify), None
    if written:
        written(done)
    if not config.registers:
        return done
    try:
        return replace(done, ollama=ollama.register(done.path, config, origin=origin, notify=notify))
    except BackpropagateError as error:
        error.kept = str(done.path)
        raise


def _export_other(
    adapter: Path | None, base: Path, name: str, config: ExportConfig, target: Path, notify: Notify | None
) -> Export:
    if config.format in ("lora", "gguf-lora") and adapter is None:
        raise AdapterUnusable("all weights were trained: there is no adapter.", where=str(base), fix=_NO_ADAPTER)
    if config.format == "gguf-lora" and adapter:
        return _export_gguf_lora(adapter, base, name, target, config, notify)
    with replacing(target) as place:
        _write_folder(adapter, base, config.format, place, notify)
    return Export(target, config.format, _bytes(target))


def _write_folder(adapter: Path | None, base: Path, format: ExportFormat, target: Path, notify: Notify | None) -> None:
    if adapter and format == "merged":
        write_merged(adapter, base, target, notify)
        return
    if adapter:
        lora.check_folder(adapter)
    _copy(adapter or base, target, notify)


@dataclass(frozen=True)
class _Gguf:
    """One GGUF export: convert to f16, prove, quantise, prove, name."""

    adapter: Path | None
    base: Path
    name: str
    config: ExportConfig
    target: Path
    notify: Notify | None

    @property
    def quantization(self) -> Quantization:
        return self.config.quantization

    def run(
        self, reference: Reference | None, samples: Sequence[Sample], losses: Mapping[str, float]
    ) -> tuple[Export, ollama.Origin]:
        require_llama_cpp()
        if self.quantization not in _CONVERTED:
            require_ggml()
        if self.config.registers:
            ollama.require_ollama(self.config, self.target)
        subject = Subject.open(self.adapter, self.base, reference=reference, samples=samples)
        words = vocabulary.read(self.base, subject.converter.vocabulary_size, subject.contract)
        if self.config.system:
            special = (special_token(self.base, name) or "" for name in ("bos_token", "eos_token"))
            ollama.require_place_for(self.config.system, Chat(words.template, *special))
        prover = Prover(subject, self.quantization, self.notify, losses=dict(losses))
        require_space(self.target, round(subject.converter.size * (1 + _SHARE.get(self.quantization, _PACKED_SHARE))))
        with folders.new_file(self.target) as draft:
            self._write(subject.converter, words, prover, draft)
            parity = self._accepted(prover, draft)
            digest, size = folders.digest(draft), draft.stat().st_size
        done = self._deliver(parity, digest, size)
        origin = ollama.Origin(subject.contract, self.base)
        gguf = GgufFile(done.path)
        setup = ollama.setup_of(gguf, origin).changed(self.config)
        return replace(done, modelfile=ollama.write_modelfile(gguf, setup, done.path)), origin

    def _write(self, converter: Converter, words: vocabulary.Vocabulary, prover: Prover, draft: Path) -> None:
        """Write the final file to `draft`, checked on the way. What fails does not end it: the file may be wanted."""
        with folders.writing(self.target), tempfile.TemporaryDirectory(dir=draft.parent, prefix=".export-") as folder:
            plain = draft if self.quantization == "f16" else Path(folder, "f16.gguf")
            converter.write(plain, words, self.name, self.notify)
            prover.check_float(plain)
            if self.quantization == "f16":
                return
            try:
                self._quantise(plain, draft, converter, words)
                prover.check_final(draft)
            except LlamaCppFailed as error:
                if prover.proven:
                    raise
                told = f"It was not kept, for llama.cpp could not go on with it ({error.message})."
                raise _not_proven(prover.parity(), told, self.target) from error

    def _quantise(self, plain: Path, draft: Path, converter: Converter, words: vocabulary.Vocabulary) -> None:
        if self.quantization in _CONVERTED:
            Converter(converter.source, self.base, self.quantization).write(draft, words, self.name, self.notify)
        else:
            quantize(plain, draft, self.quantization, notify=self.notify)

    def _accepted(self, prover: Prover, draft: Path) -> Parity:
        """The proof of a file to deliver. Raises NotProven, after putting the file where its name says so."""
        parity = prover.parity()
        if parity.proven:
            return parity
        if self.config.accept_unproven:
            return replace(parity, accepted=True)
        kept = _unproven_place(self.target)
        size, digest = draft.stat().st_size, folders.digest(draft)
        with folders.new_file(kept) as place:
            draft.replace(place)
        folders.write_json(_report_of(kept), {"file": kept.name, "sha256": digest, "bytes": size, **parity.as_dict()})
        raise _not_proven(parity, f"It is kept as {kept.name}, its proof beside it.", kept)

    def _deliver(self, parity: Parity, digest: str, size: int) -> Export:
        report = _report_of(self.target)
        folders.write_json(report, {"file": self.target.name, "sha256": digest, "bytes": size, **parity.as_dict()})
        return Export(self.target, "gguf", size, self.quantization, digest, parity, report)


def _report_of(file: Path) -> Path:
    """Where the proof of a file lies."""
    return file.with_suffix(".parity.json")


def _unproven_place(target: Path) -> Path:
    """Where a file that is not proven is kept: beside its target, under a name that nothing has.

    The one of an earlier refusal makes way: its report, beside it, tells that an export made it.
    """
    place = target.with_suffix(".unproven.gguf")
    if not place.exists() or _report_of(place).is_file():
        return place
    numbered = (target.with_suffix(f".unproven-{number}.gguf") for number in range(2, 1000))
    return next(place for place in numbered if not place.exists())


def _not_proven(parity: Parity, kept: str, file: Path) -> NotProven:
    """What is told about a file that failed its proof. `kept` says what became of it."""
    message = f"the file is not proven to be the model that was trained; {parity.verdict}. {kept}"
    fix = f"{_FINER} {NotProven.fix}" if [check.name for check in parity.failures] == [SURVIVED] else None
    rows = [check.as_row() for check in parity.failures]
    return NotProven(message, where=str(file), fix=fix, checks=rows)


def _export_gguf_lora(
    adapter: Path, base: Path, name: str, target: Path, config: ExportConfig, notify: Notify | None
) -> Export:
    converter = LoraConverter(adapter, base)
    require_space(target, _bytes(adapter))
    with folders.new_file(target) as draft:
        converter.write(draft, name)
        parity = converter.check(draft, notify)
        if not parity.proven and not config.accept_unproven:
            raise _not_proven(parity, "It was not kept.", target)
        parity = replace(parity, accepted=not parity.proven)
        digest, size = folders.digest(draft), draft.stat().st_size
    report = _report_of(target)
    folders.write_json(report, {"file": target.name, "sha256": digest, "bytes": size, **parity.as_dict()})
    return Export(target, "gguf-lora", size, None, digest, parity, report)


def model_name(base: Path) -> str:
    """A model's name from its folder; a hub snapshot is called after its repository."""
    folder = base.resolve()
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.split("--")[-1]
    return folder.name


def _target(trained: Path, model: str, config: ExportConfig) -> Path:
    gguf = config.format.startswith("gguf")
    kind = config.quantization if config.format == "gguf" else "lora"
    name = f"{model}-{kind}.gguf" if gguf else f"{model}-{config.format}"
    if config.output is None:
        return trained.resolve().parent / name
    output = Path(config.output)
    if not gguf:
        return output
    if output.suffix == ".gguf":
        if output.is_dir():
            raise OutputUnusable("this is a folder, not a file.", where=str(output))
        return output
    return folders.writable_folder(output) / name


def _copy(folder: Path, target: Path, notify: Notify | None) -> None:
    require_free(target)
    require_space(target, _bytes(folder))
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != folders.MANIFEST]
    with folders.new_folder(target) as draft:
        for done, path in enumerate(files, 1):
            copy = draft / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            if notify:
                notify(Progress("copy", done, len(files)))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
