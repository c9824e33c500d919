"""What was trained as a file to run, and its proof."""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bp_core.backends import find, rails
from bp_core.choices import QUANTIZED
from bp_core.errors import BackpropagateError, BadValue, NotProven
from bp_core.events import Notify, Progress
from bp_core.examples import Sample
from bp_export import Export, Parity, verify
from bp_export import export as write_export
from bp_export.config import ANSWERS, ExportConfig
from bp_export.pipeline import model_name
from bp_export.proof.served import check_served
from bp_runs import history
from bp_runs.run_folder import RunFolder

from ..hints import command, near, options_of
from ..models.targets import Artifact
from ..reports import run_report
from .held_out import questions_in, served_proof
from .reference import loss_on_quantized, reference

# For adapters from elsewhere, which bring no rows of their own.
_PROBES = (
    "Why is the sky blue on a clear day?",
    "Write a short note to a neighbour who lent you a ladder.",
    "List three things to check before a long journey by car.",
    "Explain in two sentences what a database index does.",
)


def export(name: str | Path, config: ExportConfig, notify: Notify) -> Export:
    """Export what was trained, and prove the result against it as PyTorch (or another rail) runs it in float32.

    Raises TargetNotFound, AdapterUnusable, ModelNotFound, and what `bp_export.export` raises.
    """
    source = Artifact.find(name)
    folder, job = source.require_folder(), source.job(notify, "float32", config.base)
    adapter = folder if job.adapter else None
    trained = source.job(notify, "float32") if config.base and source.base_is_here(notify) else job
    settings: dict[str, Any] = {"notify": notify, "written": partial(_record, source.run)}
    settings["name"] = model_name(Path(source.base)) if source.base and source.is_whole else None
    if config.format not in ("gguf", "merged"):
        return write_export(adapter, job.model, config, **settings)
    notify(Progress("open the reference", 0, 0))
    settings["samples"] = samples = samples_of(source, job.model)
    settings["served"] = served_proof(source, config.answers) if config.format == "gguf" else None
    if config.format == "merged":
        with ExitStack() as stack:
            settings["reference"] = reference(job, None, stack)
            return write_export(adapter, job.model, config, **settings)
    on_other_weights = source.mode in QUANTIZED or job.model != trained.model
    # What loftq starts leans on the 4 bits of its base: what is written is right on the 16-bit weights only.
    if on_other_weights and source.recipe.get("init") != "loftq":
        trained = replace(trained, mode=source.mode, dtype="auto")
        settings["losses"] = loss_on_quantized(trained, samples, _backend_of(source))
    with ExitStack() as stack:
        settings["reference"] = reference(job, source.before_training(notify), stack)
        settings["training_rows"] = source.run.training_rows() if source.run else [row.tokens for row in samples]
        try:
            return write_export(adapter, job.model, config, **settings)
        except NotProven as error:
            accepting = f"{shlex.quote(near(folder))} {options_of(config, accept_unproven=True)}"
            error.fix = f"{error.fix} The command: {command('export', accepting)}"
            raise


def verify_file(
    file: str,
    name: str | None,
    base: str | None,
    notify: Notify,
    *,
    data: str | None = None,
    ollama_name: str | None = None,
    answers: int = ANSWERS,
) -> Parity:
    """Prove any GGUF against what was trained (an adapter, or a whole model) and its base; by itself without both.

    A run that is named in the file's place stands for its newest file, and for what that should be.
    `data`: rows with tools or thoughts, of which `answers` are asked through llama-server, and through Ollama as
    `ollama_name`. Raises FileMissing, TargetNotFound, AdapterUnusable, ModelNotFound, and what `bp_export.verify`
    raises.
    """
    found = Artifact.find(file)
    path = found.require_gguf()
    if ollama_name and data is None:
        raise BadValue(
            "--ollama-name asks rows in Ollama, and none are given.",
            fix="Give rows with tools or thoughts: --data FILE.",
        )
    questions = questions_in(data, answers) if data else []
    if name is None and base is None and found.named_run:
        name = file
    parity = _compared(path, name, base, notify)
    if not questions:
        return parity
    served = check_served(path, questions, ollama_name=ollama_name, notify=notify)
    return replace(parity, checks=(*parity.checks, *served))


def _compared(path: Path, name: str | None, base: str | None, notify: Notify) -> Parity:
    if name is None and base is None:
        return verify(path)
    source = Artifact.find(name or str(base))
    job = source.job(notify, "float32", base if name else None)
    notify(Progress("open the reference", 0, 0))
    with ExitStack() as stack:
        truth = reference(job, source.before_training(notify), stack)
        samples = samples_of(source, job.model)
        adapter = source.require_folder() if job.adapter else None
        return verify(path, job.model, adapter, reference=truth, samples=samples, notify=notify)


def _backend_of(source: Artifact) -> str:
    """The rail that trained it, if that is here; else the best one."""
    name = str(source.recipe.get("backend", "auto"))
    return name if name in rails() and find(name).probe().available else "auto"


def samples_of(source: Artifact, base: Path) -> list[Sample]:
    """Rows to prove an export with: training rows kept by the run, else fixed questions."""
    if source.run and (kept := source.run.samples()):
        return kept
    tokenizer = source.tokenizer(base)
    samples = []
    for question in _PROBES:
        turns = [{"role": "user", "content": question}]
        text, tokens = tokenizer.render(turns, add_generation_prompt=True), tuple(tokenizer.prompt(turns))
        samples.append(Sample(text, tokens, (0,) + (1,) * (len(tokens) - 1), tokens))
    return samples


def _record(run: RunFolder | None, done: Export) -> None:
    """Note a file made of a run: in its folder, its report and the ledger. A failure to do so is told, not raised."""
    if run is None:
        return
    parity = done.parity
    export = {
        "time": round(time.time(), 3),
        "path": str(done.path.resolve()),
        "format": " ".join(filter(None, (done.format, done.quantization))),
        "bytes": done.bytes,
        "sha256": done.sha256,
        "proven": parity and parity.proven,
        "accepted_unproven": bool(parity and parity.accepted),
        "parity": done.parity_path and str(done.parity_path),
    }
    try:
        history.note_export(run, export)
        run_report.write(run)
        history.ledger().add_export(run.id, export)
    except (BackpropagateError, OSError) as error:
        print(f"warning: the export is not in the run's records: {error}", file=sys.stderr)
