"""Export: adapter + base → a file or folder. A GGUF gets its name only after it is proven."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bp_core import folders
from bp_core.errors import AdapterUnusable, BackpropagateError, FileMissing, LlamaCppFailed, NotProven, OutputUnusable
from bp_core.events import Notify, Progress
from bp_core.examples import Sample
from bp_core.model_files import VOCABULARY
from bp_core.units import bytes_of, gigabytes

from . import model_folder, ollama
from .chat_template import ChatTemplate
from .config import EXACT, ExportConfig, ExportFormat, Quantization
from .gguf.convert import Converter
from .gguf.lora import LoraConverter
from .gguf.metadata import require_context
from .gguf.reader import GgufFile
from .llama_cpp.engine import require_llama_cpp
from .ollama import RegistrationResult
from .ollama.blob import digests
from .output_paths import (
    BESIDE,
    free_beside,
    replacing,
    report_of,
    require_free,
    require_replaceable,
    require_space,
    unproven_path,
)
from .parity import Parity, Trial
from .programs import Placed, place, require_free_place
from .progress import tracked
from .proof.folder_check import check_folder
from .proof.prover import Prover, Reference, TrainedModel
from .proof.served import ServedProof
from .quantization.choice import Choice
from .quantization.ggml import require_ggml
from .quantization.importance import FEWEST_TOKENS, ImportanceMatrix, importance_matrix, write_importance
from .quantization.quantize import quantize
from .trained_tokenizer import TrainedTokenizer, copy_tokenizer, trained_tokenizer
from .weights import adapter as lora
from .weights.merge import write_merged
from .weights.model_files import special_token

# Size of the final file as a share of the f16 file, at most: q8_0 has the largest rows. Both must fit on the disk.
_SHARE = {"f16": 0.0, "bf16": 1.0}
_PACKED_SHARE = 0.54
_NONE_KEEPS = "none of up to 8 bits keeps it; use --quantization f16, or train more"
_IMPORTANCE = ".imatrix"  # not .gguf, although it is one: it is no model
_NO_ADAPTER = "Use --format merged for the whole model, or gguf."


@dataclass(frozen=True)
class Export:
    """The exported file or folder. Fields with a default are for GGUF files only.

    `parity` is the proof, also written to `parity_path`. `importance_path` is the importance matrix that quantising
    used. `modelfile` is for Ollama. `ollama` is set if the model was registered there, `placed` if another program was
    named to run it. `origins` says where tokenizer, chat template and end of turn are from.
    """

    path: Path
    format: ExportFormat
    bytes: int
    quantization: str | None = None
    sha256: str | None = None
    parity: Parity | None = None
    parity_path: Path | None = None
    modelfile: Path | None = None
    importance_path: Path | None = None
    ollama: RegistrationResult | None = None
    placed: Placed | None = None
    origins: Mapping[str, str] = field(default_factory=dict)


def export(
    adapter: Path | None,
    base: Path,
    config: ExportConfig,
    *,
    name: str | None = None,
    reference: Reference | None = None,
    samples: Sequence[Sample] = (),
    training_rows: Sequence[Sequence[int]] = (),
    losses: Mapping[str, float] | None = None,
    served: ServedProof | None = None,
    notify: Notify | None = None,
    written: Callable[[Export], None] | None = None,
) -> Export:
    """Export the PEFT folder `adapter`, trained on the Hugging Face folder `base`; without adapter, export `base`.

    `name`: the model's name, by default that of its folder. `reference`: a rail that has opened both in float32.
    `samples`: rows to compare on. Without these two a GGUF is proven against its merged weights, on fixed texts.
    `training_rows`: token ids of rows for the importance matrix, collected by `reference`; without, there is none.
    `losses`: of other forms of the model on the same rows, to report beside those of the proof. `served`: what the
    finished GGUF is asked through llama-server. `written` is called with the finished export, before Ollama gets it.
    Raises NotProven, which keeps the file as NAME.unproven.gguf, and the errors of each step. Other errors leave
    nothing behind, except that an error of Ollama leaves the file.
    """
    if not base.is_dir():
        raise FileMissing("there is no such model folder.", where=str(base))
    name = name or model_name(base)
    target = _target(adapter or base, name, config)
    sources = [folder for folder in (adapter, base) if folder]
    require_replaceable(target, overwrite=config.overwrite, sources=sources)
    if config.program:
        require_free_place(target, config.program)
    tokenizer = trained_tokenizer(adapter, base)
    origin = None
    if config.format == "gguf":
        done, origin = _Gguf(adapter, base, name, config, target, tokenizer, notify, training_rows, served).run(
            reference, samples, losses or {}
        )
    elif config.format == "gguf-lora":
        done = _export_gguf_lora(adapter, base, name, target, config, notify)
    else:
        done = _FolderExport(adapter, base, config, target, tokenizer, notify).run(reference, samples)
    if config.format != "gguf-lora":
        done = replace(done, origins=tokenizer.origins)
    if written:
        written(done)
    try:
        if config.program and config.program != "ollama":
            done = replace(done, placed=place(done.path, config.program, config.num_ctx))
        if config.registers:
            done = replace(done, ollama=ollama.register(done.path, config, origin=origin, notify=notify))
        return done
    except BackpropagateError as error:
        error.kept = str(done.path)
        raise


@dataclass(frozen=True)
class _FolderExport:
    """An export of a folder: the adapter alone, or the whole model, which is proven to end its answers."""

    adapter: Path | None
    base: Path
    config: ExportConfig
    target: Path
    tokenizer: TrainedTokenizer
    notify: Notify | None

    def run(self, reference: Reference | None, samples: Sequence[Sample]) -> Export:
        if self.config.format == "lora" and self.adapter is None:
            raise _no_adapter(self.base)
        contract = self.tokenizer.contract
        parity, report = None, None
        with replacing(self.target) as place:
            self._write(place)
            if self.config.format == "merged" and contract:
                parity = check_folder(place, contract, reference, samples, self.notify)
                if not parity.proven:
                    raise _not_proven(parity, f"It lies in {place}.", self.target)
        if parity:
            report = self.target.with_name(f"{self.target.name}.parity.json")
            folders.write_json(report, {"folder": self.target.name, **parity.as_dict()})
        return Export(self.target, self.config.format, _bytes(self.target), parity=parity, parity_path=report)

    def _write(self, place: Path) -> None:
        if self.adapter and self.config.format == "merged":
            write_merged(self.adapter, self.base, place, self.notify, tokenizer=self.tokenizer)
            return
        if self.adapter:
            lora.check_folder(self.adapter)
        _copy(self.adapter or self.base, place, self.tokenizer, self.notify)


def _no_adapter(model: Path) -> AdapterUnusable:
    return AdapterUnusable("all weights were trained: there is no adapter.", where=str(model), fix=_NO_ADAPTER)


@dataclass(frozen=True)
class _Gguf:
    """A GGUF export: convert to f16, prove, quantise, prove, rename."""

    adapter: Path | None
    base: Path
    name: str
    config: ExportConfig
    target: Path
    tokenizer: TrainedTokenizer
    notify: Notify | None
    training_rows: Sequence[Sequence[int]] = ()
    served: ServedProof | None = None

    @property
    def quantization(self) -> Quantization:
        return self.config.quantization

    def run(
        self, reference: Reference | None, samples: Sequence[Sample], losses: Mapping[str, float]
    ) -> tuple[Export, ollama.Origin]:
        require_llama_cpp()
        if self.quantization not in EXACT:
            require_ggml()
        if self.config.registers:
            ollama.require_ollama(self.config, self.target)
        model = TrainedModel.open(
            self.adapter, self.base, tokenizer=self.tokenizer, reference=reference, samples=samples
        )
        require_context(self.config.num_ctx, model.converter.config["max_position_embeddings"], self.base)
        if self.config.system:
            bos, eos = (special_token(self.tokenizer.folder, name) or "" for name in ("bos_token", "eos_token"))
            ollama.require_place_for(self.config.system, ChatTemplate(model.vocabulary.template, bos, eos))
        prover = Prover(model, self.quantization, self.notify, losses=dict(losses))
        require_space(self.target, round(model.converter.size * (1 + _SHARE.get(self.quantization, _PACKED_SHARE))))
        with folders.new_file(self.target) as draft:
            matrix, trials = self._write(model, prover, draft)
            parity = replace(prover.parity(), importance_tokens=matrix.tokens if matrix else 0, trials=tuple(trials))
            if self.served and parity.proven:
                parity = replace(parity, checks=(*parity.checks, *self.served.checks(draft, self.notify)))
            parity = self._accepted(parity, draft)
            digest, size = digests(draft) if self.config.registers else folders.digest(draft), draft.stat().st_size
        importance = free_beside(self.target, _IMPORTANCE) if matrix else None
        report = _write_report(self.target, parity, digest, size, [importance] if importance else [])
        if matrix and importance:
            with folders.new_file(importance) as path:
                write_importance(path, matrix, model.converter.family.architecture, self.training_rows)
        origin = ollama.Origin(model.contract, self.base)
        gguf = GgufFile(self.target)
        settings = ollama.settings_for(gguf, origin).changed(self.config)
        modelfile = ollama.write_modelfile(gguf, settings, self.target)
        done = Export(self.target, "gguf", size, parity.quantization, digest, parity, report, modelfile)
        return replace(done, importance_path=importance), origin

    def _write(
        self, model: TrainedModel, prover: Prover, draft: Path
    ) -> tuple[ImportanceMatrix | None, Sequence[Trial]]:
        """Write the final file to `draft` and check it. A failed check does not stop: the file may be wanted anyway.

        Returns the importance matrix that was used, and the formats that were tried.
        """
        with folders.writing(self.target), tempfile.TemporaryDirectory(dir=draft.parent, prefix=".export-") as folder:
            plain = draft if self.quantization == "f16" else Path(folder, "f16.gguf")
            model.converter.write(plain, model.vocabulary, self.name, self.notify)
            prover.check_float(plain)
            if self.quantization == "f16":
                return None, ()
            try:
                matrix = self._importance(model)
                choice = Choice(plain, prover, matrix.columns if matrix else None, self.notify)
                if self.quantization == "auto":
                    prover.quantization = self._choose(choice, draft)
                else:
                    self._quantise(choice, draft, model)
                prover.check_final(draft)
                if prover.lost and not self.config.accept_unproven:
                    choice.smallest(choice.by_size(above=prover.quantization), Path(folder, "trial.gguf"))
                return matrix, choice.trials
            except LlamaCppFailed as error:
                if prover.proven:
                    raise
                kept = f"It was not kept, because llama.cpp could not run it ({error.message})."
                raise _not_proven(prover.parity(), kept, self.target) from error

    def _quantise(self, choice: Choice, draft: Path, model: TrainedModel) -> None:
        if self.quantization in EXACT:
            converter = Converter(model.converter.source, self.base, self.quantization)
            converter.write(draft, model.vocabulary, self.name, self.notify)
        else:
            quantize(choice.plain, draft, self.quantization, importance=choice.importance, notify=self.notify)

    def _importance(self, model: TrainedModel) -> ImportanceMatrix | None:
        """The importance matrix, where it is wanted and the trained model is there to collect it."""
        tokens = sum(len(row) for row in self.training_rows)
        unused = not self.config.importance or self.quantization in EXACT
        if unused or model.reference is None or tokens < FEWEST_TOKENS:
            return None
        if self.notify:
            self.notify(Progress("collect the importance matrix", 0, 0))
        sums = model.reference.input_squares(self.training_rows)
        return importance_matrix(model.converter, sums, tokens)

    def _choose(self, choice: Choice, draft: Path) -> str:
        """The name of the smallest format within the size asked for that keeps what was learned; its file at `draft`.

        Raises NotProven, naming the smallest that does at any size.
        """
        sizes, limit = choice.sizes(), bytes_of(self.config.max_size or "")
        names = choice.by_size()
        fitting = [name for name in names if limit is None or sizes[name] <= limit]
        if chosen := choice.smallest(fitting, draft):
            return chosen.quantization
        larger = choice.smallest([name for name in names if name not in fitting], draft)
        message = f"no format{f' of up to {self.config.max_size}' if limit else ''} keeps what was learned."
        fix = f"Use --quantization {larger.quantization} ({gigabytes(larger.bytes)})." if larger else _NONE_KEEPS
        raise NotProven(message, fix=fix, checks=[trial.as_row() for trial in choice.trials])

    def _accepted(self, parity: Parity, draft: Path) -> Parity:
        """The proof of the file. If it fails, keep the file as NAME.unproven.gguf and raise NotProven."""
        if parity.proven:
            return parity
        if self.config.accept_unproven:
            return replace(parity, accepted=True)
        kept = unproven_path(self.target)
        digest, size = folders.digest(draft), draft.stat().st_size
        with folders.new_file(kept) as path:
            draft.replace(path)
        _write_report(kept, parity, digest, size)
        raise _not_proven(parity, f"It is kept as {kept.name}, its proof beside it.", kept)


def _write_report(file: Path, parity: Parity, digest: str, size: int, beside: Sequence[Path] = ()) -> Path:
    """Write the proof of `file` beside it, with the names of the other files there. Returns its path."""
    report = report_of(file)
    written = {"file": file.name, "sha256": digest, "bytes": size, BESIDE: [path.name for path in beside]}
    folders.write_json(report, written | parity.as_dict())
    return report


def _not_proven(parity: Parity, kept: str, file: Path) -> NotProven:
    """The error for a file that failed its proof. `kept` says what happened to the file."""
    message = f"the file is not proven to be the model that was trained; {parity.verdict}. {kept}"
    fix = None
    if parity.trials:
        smallest = next((trial for trial in parity.trials if trial.kept), None)
        finer = _NONE_KEEPS
        if smallest:
            finer = f"--quantization {smallest.quantization} ({gigabytes(smallest.bytes)}) keeps it"
        fix = f"{parity.quantization} loses too much of what was learned: {finer}."
    rows = [check.as_row() for check in parity.failures]
    return NotProven(message, where=str(file), fix=fix, checks=rows)


def _export_gguf_lora(
    adapter: Path | None, base: Path, name: str, target: Path, config: ExportConfig, notify: Notify | None
) -> Export:
    if adapter is None:
        raise _no_adapter(base)
    converter = LoraConverter(adapter, base)
    require_space(target, _bytes(adapter))
    with folders.new_file(target) as draft:
        converter.write(draft, name)
        parity = converter.check(draft, notify)
        if not parity.proven and not config.accept_unproven:
            raise _not_proven(parity, "It was not kept.", target)
        parity = replace(parity, accepted=not parity.proven)
        digest, size = folders.digest(draft), draft.stat().st_size
    report = _write_report(target, parity, digest, size)
    return Export(target, "gguf-lora", size, None, digest, parity, report)


def model_name(base: Path) -> str:
    """A model's name from its folder; a snapshot from the hub has the name of its repository."""
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
    if output.suffix.lower() == ".gguf":
        if output.is_dir():
            raise OutputUnusable("this is a folder, not a file.", where=str(output))
        return output
    return folders.writable_folder(output) / name


def _copy(folder: Path, target: Path, tokenizer: TrainedTokenizer, notify: Notify | None) -> None:
    """Copy what was trained, and complete it: the chat template of training, and the ends of a turn."""
    require_free(target)
    require_space(target, _bytes(folder))
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


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
