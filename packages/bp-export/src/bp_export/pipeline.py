"""Export: adapter + base → a file or folder. A GGUF gets its name only after it is proven."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bp_core import folders
from bp_core.errors import BackpropagateError, FileMissing, LlamaCppFailed, NotProven, OutputUnusable
from bp_core.events import Notify, Progress
from bp_core.examples import Sample
from bp_core.units import bytes_of, gigabytes

from . import ollama
from .chat_template import ChatTemplate
from .config import EXACT, ExportConfig, Quantization
from .folder_export import FolderExport, no_adapter, size_of
from .gguf.convert import Converter
from .gguf.lora import LoraConverter
from .gguf.metadata import require_context
from .gguf.reader import GgufFile
from .llama_cpp.engine import require_llama_cpp
from .ollama.blob import digests
from .outcome import NONE_KEEPS, Export, not_proven, write_report
from .output_paths import (
    free_beside,
    require_replaceable,
    require_space,
    unproven_path,
)
from .parity import Parity, Trial
from .programs import place, require_free_place
from .proof.prover import Prover
from .proof.served import ServedProof
from .proof.trained_model import Reference, TrainedModel
from .quantization.choice import Choice
from .quantization.ggml import require_ggml
from .quantization.importance import FEWEST_TOKENS, ImportanceMatrix, importance_matrix, write_importance
from .quantization.quantize import quantize
from .trained_tokenizer import TrainedTokenizer, trained_tokenizer
from .weights.model_files import special_token

# Size of the final file as a share of the f16 file, at most: q8_0 has the largest rows. Both must fit on the disk.
_SHARE = {"f16": 0.0, "bf16": 1.0}
_PACKED_SHARE = 0.54
_IMPORTANCE = ".imatrix"  # not .gguf, although it is one: it is no model


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
        done = FolderExport(adapter, base, config, target, tokenizer, notify).run(reference, samples)
    if config.format != "gguf-lora":
        done = replace(done, origins=tokenizer.origins)
    if written:
        written(done)
    try:
        if config.program and config.program != "ollama":
            done = replace(done, placed=place(done.path, config.program, config.num_ctx))
        if config.ollama:
            done = replace(done, ollama=ollama.register(done.path, config, origin=origin, notify=notify))
        return done
    except BackpropagateError as error:
        error.kept = str(done.path)
        raise


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
        if self.config.ollama:
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
            digest, size = digests(draft) if self.config.ollama else folders.digest(draft), draft.stat().st_size
        importance = free_beside(self.target, _IMPORTANCE) if matrix else None
        report = write_report(self.target, parity, digest, size, [importance] if importance else [])
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
                raise not_proven(prover.parity(), kept, self.target) from error

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
        fix = f"Use --quantization {larger.quantization} ({gigabytes(larger.bytes)})." if larger else NONE_KEEPS
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
        write_report(kept, parity, digest, size)
        raise not_proven(parity, f"It is kept as {kept.name}, its proof beside it.", kept)


def _export_gguf_lora(
    adapter: Path | None, base: Path, name: str, target: Path, config: ExportConfig, notify: Notify | None
) -> Export:
    if adapter is None:
        raise no_adapter(base)
    converter = LoraConverter(adapter, base)
    require_space(target, size_of(adapter))
    with folders.new_file(target) as draft:
        converter.write(draft, name)
        parity = converter.check(draft, notify)
        if not parity.proven and not config.accept_unproven:
            raise not_proven(parity, "It was not kept.", target)
        parity = replace(parity, accepted=not parity.proven)
        digest, size = folders.digest(draft), draft.stat().st_size
    report = write_report(target, parity, digest, size)
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
