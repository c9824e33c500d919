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
from bp_core.errors import BackpropagateError, NotProven
from bp_core.events import Notify, Progress
from bp_core.examples import Sample
from bp_data import ChatTokenizer
from bp_export import Export, Parity, export, verify
from bp_export.config import ExportConfig
from bp_export.pipeline import model_name
from bp_runs import history
from bp_runs.run_folder import RunFolder

from ..hints import command, near, options_of
from ..models import locate
from ..models.published import adapter_in, base_of, folder_of, is_whole, job_for, mode_of, run_of
from ..reports import run_report
from .reference import loss_on_quantized, reference

# For adapters from elsewhere, which bring no rows of their own.
_PROBES = (
    "Why is the sky blue on a clear day?",
    "Write a short note to a neighbour who lent you a ladder.",
    "List three things to check before a long journey by car.",
    "Explain in two sentences what a database index does.",
)


def export_adapter(folder: Path, config: ExportConfig, notify: Notify) -> Export:
    """Export what was trained, and prove the result against it as PyTorch (or another rail) runs it in float32."""
    job, trained = job_for(folder, notify, "float32", config.base), job_for(folder, notify, "float32")
    base = base_of(folder)
    settings: dict[str, Any] = {"name": model_name(Path(base)) if base and is_whole(folder) else None, "notify": notify}
    settings["written"] = partial(_record, folder)
    if config.format != "gguf":
        return export(job.adapter, job.model, config, **settings)
    notify(Progress("open the reference", 0, 0))
    samples = samples_of(folder, job.model)
    mode = mode_of(folder)
    if (mode in QUANTIZED or job.model != trained.model) and not _leans_on_4_bits(folder):
        settings["losses"] = loss_on_quantized(replace(trained, mode=mode, dtype="auto"), samples, _backend_of(folder))
    with ExitStack() as stack:
        settings["reference"] = reference(job, folder_of(base, notify), stack)
        settings["samples"] = samples
        try:
            return export(job.adapter, job.model, config, **settings)
        except NotProven as error:
            accepting = f"{shlex.quote(near(folder))} {options_of(config, accept_unproven=True)}"
            error.fix = f"{error.fix} The command: {command('export', accepting)}"
            raise


def verify_file(file: Path, trained: str | None, base: str | None, notify: Notify) -> Parity:
    """Prove any GGUF against what was trained (an adapter, or a whole model) and its base; by itself without both.

    Raises AdapterUnusable, ModelNotFound, and what `bp_export.verify` raises.
    """
    if trained is None and base is None:
        return verify(file)
    folder = adapter_in(trained) if trained else locate.locate(str(base), notify)
    job = job_for(folder, notify, "float32", base)
    notify(Progress("open the reference", 0, 0))
    with ExitStack() as stack:
        truth = reference(job, folder_of(base_of(folder), notify), stack)
        samples = samples_of(folder, job.model)
        return verify(file, job.model, job.adapter, reference=truth, samples=samples, notify=notify)


def _backend_of(folder: Path) -> str:
    """The rail that trained what is in a folder, if it is here; else the best one."""
    run = run_of(folder)
    name = str(run.read()["recipe"]["backend"]) if run else "auto"
    return name if name in rails() and find(name).probe().available else "auto"


def _leans_on_4_bits(folder: Path) -> bool:
    """Whether an adapter was started by loftq: what is written is right on the 16-bit weights only."""
    run = run_of(folder)
    return run is not None and run.read()["recipe"].get("init") == "loftq"


def _record(adapter: Path, done: Export) -> None:
    """Note an export with the run that made the adapter, if it is there."""
    if run := run_of(adapter):
        record_export(run, done)


def samples_of(adapter: Path, base: Path) -> list[Sample]:
    """Rows to prove an export with: training rows kept by the run, else fixed questions."""
    run = run_of(adapter)
    if run and (kept := run.samples()):
        return kept
    tokenizer = ChatTokenizer.open(base)
    return [_probe(tokenizer, question) for question in _PROBES]


def _probe(tokenizer: ChatTokenizer, question: str) -> Sample:
    turns = [{"role": "user", "content": question}]
    text, tokens = tokenizer.render(turns, add_generation_prompt=True), tuple(tokenizer.prompt(turns))
    return Sample(text, tokens, (0,) + (1,) * (len(tokens) - 1), tokens)


def record_export(run: RunFolder, done: Export) -> None:
    """Note a file made of a run: in its folder, its report and the ledger. A failure to do so is told, not raised."""
    export = {
        "time": round(time.time(), 3),
        "path": str(done.path.resolve()),
        "format": done.format if done.quantization is None else f"{done.format} {done.quantization}",
        "bytes": done.bytes,
        "sha256": done.sha256,
        "proven": done.parity.proven if done.parity else None,
        "accepted_unproven": done.parity.accepted if done.parity else False,
        "parity": str(done.parity_path) if done.parity_path else None,
    }
    try:
        history.note_export(run, export)
        run_report.write(run)
        history.ledger().add_export(run.id, export)
    except (BackpropagateError, OSError) as error:
        print(f"warning: the export is not in the run's records: {error}", file=sys.stderr)
