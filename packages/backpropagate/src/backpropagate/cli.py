"""The command line: each verb hands its options to one call in `verbs`; nothing is decided here."""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer

from bp_core.config import (
    CheckConfig,
    CompareConfig,
    EvalConfig,
    ExportConfig,
    HarnessConfig,
    PushConfig,
    ServeConfig,
    TrainConfig,
    TrainOn,
)
from bp_core.config import settings as settings_of
from bp_core.multi_run import MultiRunConfig

from . import __version__
from .failures import exit_code_of
from .options import option, with_options
from .runs import NEWEST

app = typer.Typer(
    name="backprop",
    help="Fine-tune a language model on your own machine and hand over a file that runs.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"auto_envvar_prefix": "BACKPROPAGATE"},
)
data_app = typer.Typer(help="Check a data file, look at it as the model will, split it, convert it.")
app.add_typer(data_app, name="data")
ollama_app = typer.Typer(help="Bring a GGUF to a running Ollama, list what it has, remove a model.")
app.add_typer(ollama_app, name="ollama")
_EXTEND = "Extend it to so many steps; from there the learning rate is that of the longer run."
_ALLOW = "Go on although data, model or settings changed."
_TARGET = "A run's id, an output, adapter or model folder, or a model name."
_DATA = "Rows with the right answers. Default: those that the run held out."
RunName = Annotated[str, typer.Argument(help="Id, unique beginning of one, or run folder.")]
Columns = Annotated[str, option(TrainConfig, "columns")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]

# The settings on which it depends what a run will need.
_ESTIMATED = {
    "output", "backend", "lora_preset", "rank", "dropout", "dora", "target_modules", "batch_size", "micro_batch",
    "activation_checkpointing", "method", "max_length", "reasoning_trace", "packing", "dtype", "keep_checkpoints",
    "mode", "optimizer", "init", "attention",
}  # fmt: skip
_NOT_ESTIMATED = {setting.name for setting in settings_of(TrainConfig)} - _ESTIMATED


class _Resumable(typer.core.TyperCommand):
    """A command whose --resume may stand alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words: list[str] = []
        for word, after in zip_longest(args, args[1:], fillvalue="--"):
            words += [word, NEWEST] if word == "--resume" and after.startswith("--") else [word]
        return super().parse_args(ctx, words)


def main() -> None:
    """The `backprop` command. Exit codes: 0 done, 1 you can fix it, 2 it failed, 130 interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(exit_code_of(app, sys.argv[1:]))


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"backprop {__version__}")
        raise typer.Exit


@app.command(cls=_Resumable)
@with_options(TrainConfig)
def train(
    settings: dict[str, Any],
    data: Annotated[str, typer.Option(help="The examples: a file, a folder, or owner/name:split on the hub.")],
    resume: Annotated[
        str, typer.Option(help="Go on with a run: its id or the beginning of it, or nothing for the newest unfinished.")
    ] = "",
    allow_changes: Annotated[bool, typer.Option("--allow-changes", help=_ALLOW)] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    json: Json = False,
) -> None:
    """Train a LoRA adapter, or with --mode full all weights, on a file of examples."""
    _verbs().train(settings, data, resume=resume, allow_changes=allow_changes, dry_run=dry_run, json=json)


@app.command(name="multi-run")
@with_options(TrainConfig, also=(MultiRunConfig,))
def multi_run(
    settings: dict[str, Any],
    data: Annotated[
        list[str] | None, typer.Option(help="The examples of a stage; given again, those of the next. As for train.")
    ] = None,
    resume: Annotated[
        str, typer.Option(help="Go on with a session as it was begun: its output folder, or the id of a stage's run.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    json: Json = False,
) -> None:
    """Train stage after stage and merge them into one adapter; again with one more --data it goes on from there."""
    _multi_run_verbs().run(settings, data or [], resume, dry_run=dry_run, json=json)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="The run's id, or the beginning of it.")] = NEWEST,
    output: Annotated[str, typer.Option(help="The output folder that holds it.")] = TrainConfig.output,
    steps: Annotated[
        int | None,
        typer.Option(help=_EXTEND, min=1),
    ] = None,
    allow_changes: Annotated[bool, typer.Option("--allow-changes", help=_ALLOW)] = False,
    json: Json = False,
) -> None:
    """Go on with a run as it was begun: the newest unfinished one, or the one that is named.

    On the processor it was begun on, it ends with the same bytes as without the interruption.
    """
    _verbs().resume(run, output, steps, allow_changes=allow_changes, json=json)


@app.command()
@with_options(ExportConfig)
def export(
    settings: dict[str, Any],
    adapter: Annotated[str, typer.Argument(help="The adapter or model folder, or the output folder that holds it.")],
    json: Json = False,
) -> None:
    """Turn what was trained into a file to run, and prove that it behaves the same."""
    _verbs().export(settings, adapter, json=json)


@app.command()
def verify(
    file: Annotated[str, typer.Argument(help="The GGUF file, whoever made it.")],
    adapter: Annotated[
        str | None, typer.Option(help="What it should be: the adapter or model folder, or the output folder.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The model it should be, or that --adapter was trained on. Default: as it says.")
    ] = None,
    json: Json = False,
) -> None:
    """Prove that a GGUF is the model that was trained; exits with 2 if it is not."""
    _verbs().verify(file, adapter, base, json=json)


@app.command(name="estimate-vram")
@with_options(TrainConfig, *_NOT_ESTIMATED)
def estimate_vram(
    settings: dict[str, Any],
    model: Annotated[str, option(TrainConfig, "model", typer.Argument)],
    memory: Annotated[
        float | None,
        typer.Option(help="Judge for a card with so many GiB free, not for this machine.", min=0.1),
    ] = None,
    json: Json = False,
) -> None:
    """Say what training a model would need in memory, disk and time; nothing but its config.json is loaded."""
    _verbs().estimate(settings, model, memory, json=json)


@app.command()
def chat(
    target: Annotated[str, typer.Argument(help="A .gguf file, an adapter or model folder, or an output folder.")],
    prompt: Annotated[str | None, typer.Option(help="Ask this once and stop.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message to begin with.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 512,
) -> None:
    """Talk to a trained model: the GGUF through llama.cpp, an adapter through its training backend."""
    _verbs().chat(target, prompt, system, max_tokens)


@app.command(name="eval")
@with_options(EvalConfig)
def evaluate(
    settings: dict[str, Any],
    target: Annotated[str, typer.Argument(help=_TARGET)],
    data: Annotated[str | None, typer.Option(help=_DATA)] = None,
    columns: Columns = TrainConfig.columns,
    json: Json = False,
) -> None:
    """Measure loss and answers on rows that were not trained on, with 95 % intervals; --gate makes it a test."""
    _eval_verbs().evaluation(settings, target, data, columns, json=json)


@app.command()
@with_options(CompareConfig)
def compare(
    settings: dict[str, Any],
    target: Annotated[str, typer.Argument(help=_TARGET)],
    prompt: Annotated[list[str] | None, typer.Option(help="A message to answer; may be repeated.")] = None,
    data: Annotated[str | None, typer.Option(help=f"{_DATA[:-1]}, or else some that it was trained on.")] = None,
    columns: Columns = TrainConfig.columns,
    json: Json = False,
) -> None:
    """Show the answers of the base, of what was trained, and of the exported file, side by side."""
    _eval_verbs().compare(settings, target, prompt or [], data, columns, json=json)


@app.command(name="lm-eval")
@with_options(HarnessConfig)
def lm_eval(
    settings: dict[str, Any],
    target: Annotated[str, typer.Argument(help=_TARGET)],
    tasks: Annotated[str, typer.Argument(help="Names of tasks, or YAML files that describe some, with commas.")],
    json: Json = False,
) -> None:
    """Run tasks of lm-evaluation-harness; they come with the extra `lm-eval` of backpropagate."""
    _eval_verbs().lm_eval(settings, target, tasks, json=json)


@app.command()
@with_options(ServeConfig)
def serve(
    settings: dict[str, Any],
    target: Annotated[str, typer.Argument(help="A .gguf file, an output folder, or a run whose export it was.")],
    json: Json = False,
) -> None:
    """Serve a GGUF over HTTP as OpenAI does, to this machine only, until Ctrl-C."""
    _verbs().serve(settings, target, json=json)


@app.command()
@with_options(PushConfig)
def push(
    settings: dict[str, Any],
    path: Annotated[str, typer.Argument(help="A .gguf file, an adapter or model folder, or an output folder.")],
    repo: Annotated[str, typer.Option(help="Where to: owner/name. It is made if it is not there.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the files and the card, and send nothing.")] = False,
    json: Json = False,
) -> None:
    """Upload what was trained to the Hugging Face hub, with a card. The token: HF_TOKEN, or `hf auth login`."""
    _push_verbs().push(settings, path, repo, dry_run=dry_run, json=json)


@app.command()
def quickstart(
    output: Annotated[str, typer.Option(help="Folder for everything that is written.")] = "output",
    steps: Annotated[int, typer.Option(help="Optimizer steps.", min=1)] = 48,
    backend: Annotated[str, typer.Option(help="Where to train.")] = "auto",
) -> None:
    """Train, prove, export and ask the embedded small model, from start to finish in a few minutes."""
    _verbs().quickstart(Path(output), steps, backend)


@app.command()
def info(json: Json = False) -> None:
    """Show versions, backends and folders, for a bug report."""
    _verbs().info(json=json)


@app.command("list-runs")
def list_runs(
    status: Annotated[
        str | None, typer.Option(help="Only these: running, paused, finished, failed or interrupted.")
    ] = None,
    json: Json = False,
) -> None:
    """List every run of this user, newest first, wherever its folder is."""
    _ledger_verbs().list_runs(status, json=json)


@app.command("show-run")
def show_run(run: RunName, json: Json = False) -> None:
    """Show all that the ledger knows of a run."""
    _ledger_verbs().show_run(run, json=json)


@app.command("diff-runs")
def diff_runs(
    first: RunName, second: Annotated[str, typer.Argument(help="The other run.")], json: Json = False
) -> None:
    """Show two runs side by side, only what differs: recipe, data, versions, results."""
    _ledger_verbs().diff_runs(first, second, json=json)


@app.command()
def replay(
    run: Annotated[str, typer.Argument(help="Id, unique beginning of one, run folder, or run.lock file.")],
    set: Annotated[list[str] | None, typer.Option(help="A setting to change, as name=value; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Do a run again, after checking that data, base model and tokenizer are still the same.

    On the same processor it ends with the same bytes; where it does not, you are told what else differs.
    """
    _ledger_verbs().replay(run, set or [], json=json)


@app.command("export-runs")
def export_runs(
    format: Annotated[str, typer.Option(help="jsonl or csv.")] = "jsonl",
    output: Annotated[str | None, typer.Option(help="The file to write. Default: stdout.")] = None,
) -> None:
    """Write all runs as a table for other tools."""
    _ledger_verbs().export_runs(format, output)


@app.command()
def errors(
    code: Annotated[str | None, typer.Argument(help="Only this code.")] = None,
    json: Json = False,
) -> None:
    """Explain error codes and what to do about each."""
    _ledger_verbs().errors(code, json=json)


@data_app.command()
def show(
    file: Annotated[str, typer.Argument(help="The data file.")],
    model: Annotated[str, typer.Option(help="The model whose tokenizer and chat template to use.")] = TrainConfig.model,
    rows: Annotated[int, typer.Option("--rows", "-n", help="How many rows.", min=1)] = 3,
    skip: Annotated[int, typer.Option(help="Leave out the first so many.", min=0)] = 0,
    columns: Columns = TrainConfig.columns,
    train_on: Annotated[TrainOn, option(TrainConfig, "train_on")] = TrainConfig.train_on,
    json: Json = False,
) -> None:
    """Show rows as the model will see them: the rendered text, what is learned of it, and its tokens."""
    _data_verbs().show(file, model, rows, skip, columns, train_on, json=json)


@data_app.command()
@with_options(CheckConfig)
def check(
    settings: dict[str, Any],
    file: Annotated[str, typer.Argument(help="The data file.")],
    columns: Columns = TrainConfig.columns,
    json: Json = False,
) -> None:
    """Find what is wrong in a data file, each fault with its line; exits with 1 if there is an error."""
    raise typer.Exit(_data_verbs().check_file(settings, file, columns, json=json))


@data_app.command()
def split(
    file: Annotated[str, typer.Argument(help="The data file.")],
    held_out: Annotated[float, typer.Option(help="Share of the different conversations to hold out, 0 to 1.")],
    seed: Annotated[int, typer.Option(help="Another seed holds out others.")] = 42,
    output: Annotated[str | None, typer.Option(help="Folder for the two files. Default: beside the file.")] = None,
    columns: Columns = TrainConfig.columns,
    json: Json = False,
) -> None:
    """Divide a file into rows to train on and rows held out; the same conversation is never in both."""
    _data_verbs().split(file, held_out, seed, output, columns, json=json)


@data_app.command()
def convert(
    file: Annotated[str, typer.Argument(help="The data file.")],
    to: Annotated[str, typer.Option(help="The format: openai, sharegpt or alpaca.")],
    output: Annotated[str | None, typer.Option(help="The file to write. Default: stdout.")] = None,
    columns: Columns = TrainConfig.columns,
) -> None:
    """Write a file's conversations in another format, as JSON lines."""
    _data_verbs().convert_file(file, to, output, columns)


@ollama_app.command()
@with_options(ExportConfig, "format", "quantization", "output", "base", "ollama", "ollama_name")
def register(
    settings: dict[str, Any],
    file: Annotated[str, typer.Argument(help="The .gguf file. A Modelfile beside it says how it is to run.")],
    name: Annotated[str, typer.Argument(help="What Ollama shall call it.")],
    json: Json = False,
) -> None:
    """Give Ollama a GGUF, and see that it behaves there as in its file."""
    _ollama_verbs().register_file(settings, file, name, json=json)


@ollama_app.command("list")
def list_models(json: Json = False) -> None:
    """List the models that Ollama has."""
    _ollama_verbs().list_models(json=json)


@ollama_app.command()
def rm(
    name: Annotated[str, typer.Argument(help="The model's name in Ollama.")],
    json: Json = False,
) -> None:
    """Remove a model from Ollama; the file that it was made of stays."""
    _ollama_verbs().remove(name, json=json)


def _verbs() -> Any:
    """The module that does the work, loaded when a verb runs, so that --help stays quick."""
    return import_module(".verbs", __package__)


def _multi_run_verbs() -> Any:
    return import_module(".multi_run_verbs", __package__)


def _eval_verbs() -> Any:
    return import_module(".eval_verbs", __package__)


def _push_verbs() -> Any:
    return import_module(".push_verbs", __package__)


def _ledger_verbs() -> Any:
    return import_module(".ledger_verbs", __package__)


def _data_verbs() -> Any:
    return import_module(".data_verbs", __package__)


def _ollama_verbs() -> Any:
    return import_module(".ollama_verbs", __package__)
