"""Writes the pages cli, config, errors and models of docs/, and tables of other pages, from the code and
from benchmarks/results.

With --check it writes nothing, and fails when one is stale.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from typer.main import get_command

from backpropagate.cli.app import app
from backpropagate.cli.version_1 import COMMANDS, OPTIONS
from backpropagate.ui_config import UiConfig
from bp_core.choices import ON_HOST, Mode
from bp_core.config import BATCH_SIZE, FULL_LIMIT, MAX_LENGTH, TrainConfig
from bp_core.environment import variable
from bp_core.errors import ERRORS, PARTLY_DONE
from bp_core.glossary import GLOSSARY, terms_in
from bp_core.settings import Setting, settings
from bp_data.check import KINDS
from bp_data.check.config import CheckConfig
from bp_data.formats.detect import FORMATS
from bp_eval.config import CompareConfig, EvalConfig, HarnessConfig
from bp_export.config import ExportConfig, PushConfig, ServeConfig
from bp_multirun.config import MultiRunConfig
from bp_plan.architecture import architecture
from bp_plan.defaults import for_machine
from bp_plan.memory import GIB
from bp_plan.presets import PRESETS
from bp_plan.recipe import resolve
from bp_plan.rows import DeviceInfo, full_rows

MODES: tuple[Mode, ...] = ("qlora", "lora-8bit", "lora", "full")
MODE_LENGTH = 1024
CARD = DeviceInfo("cuda", None, "bfloat16")
CARDS = (6, 8, 12, 16, 24, 32, 48, 80)
TAKEN = 0.8  # GiB of a card that a desktop has, and is left
DOCS = Path(__file__).parent
NO_USE = ("glossary.md", "log.md", "cli.md", "config.md", "errors.md", "models.md")  # written from code, or history
RESULTS = DOCS.parent / "benchmarks" / "results"
NOTE = "<!-- Written by docs/generate.py. Change the code, then run `uv run python docs/generate.py`. -->\n\n"


def cli() -> str:
    root: Any = get_command(app)
    return "\n".join(_command(root, root.context_class(root, info_name="backprop", **root.context_settings), 1))


def _command(command: Any, ctx: Any, level: int) -> list[str]:
    """A command's help, its arguments, its options by panel with their variables, and what is below it."""
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    lines = [f"{'#' * level} `{ctx.command_path}`\n", f"{command.help}\n", f"```console\n$ {usage}\n```\n"]
    panels: dict[str, list[str]] = {}
    for parameter in command.get_params(ctx):
        kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
        parameter.show_envvar = True
        name, text = parameter.get_help_record(ctx)
        panels.setdefault(parameter.rich_help_panel or kind, []).append(f"* `{name}`: {text}")
    for panel, entries in panels.items():
        lines += [f"**{panel}**:\n", *entries, ""]
    below = [(name, command.get_command(ctx, name)) for name in getattr(command, "commands", ())]
    if below:
        lines += ["**Commands**:\n", *(f"* `{name}`: {one.help}" for name, one in below), ""]
    for name, one in below:
        lines += _command(one, one.context_class(one, info_name=name, parent=ctx, **one.context_settings), level + 1)
    return lines


def config() -> str:
    parts = [
        "# Settings\n",
        "Each is a keyword of `Trainer`, an option of `backprop`, and an environment variable, which means the same to",
        "both. What is given in Python or on the command line wins over the variable.\n",
    ]
    verbs = {
        "train": TrainConfig,
        "multi-run": MultiRunConfig,
        "export": ExportConfig,
        "serve": ServeConfig,
        "eval": EvalConfig,
    }
    verbs |= {"compare": CompareConfig, "lm-eval": HarnessConfig, "push": PushConfig}
    verbs |= {"data check": CheckConfig, "ui": UiConfig}
    for verb, kind in verbs.items():
        parts.append(f"## {verb}\n")
        for panel, declared in groupby(settings(kind), lambda setting: setting.panel):
            parts += [f"### {panel}\n"] if panel else []
            parts.append("| setting | default | environment variable | meaning |\n|---|---|---|---|")
            parts += [*(_setting(verb, setting) for setting in declared), ""]
    return "\n".join(parts).strip() + "\n"


def _setting(verb: str, setting: Setting) -> str:
    default = "computed" if setting.default is None else f"`{setting.default}`"
    return f"| `{setting.name}` | {default} | `{variable(verb, setting.name)}` | {setting.help} |"


def models() -> str:
    parts = [
        "# Models\n",
        "These are the short names for `--model`. You can also give the hub id or the folder of any other model that",
        "transformers can generate text with; such a model is called untested. Code that comes with a model is never",
        "run.\n",
        "| preset | on the hub | parameters | licence |\n|---|---|---|---|",
    ]
    for name, preset in PRESETS.items():
        shape = architecture(preset.config)
        size = f"{shape.parameters / 1e9:.2f} billion" if shape and shape.known else ""
        licence = preset.licence + (f": {preset.restrictions}" if preset.restrictions else "")
        parts.append(f"| `{name}` | {preset.hub_id} | {size} | {licence} |")
    return "\n".join([*parts, "", *memory()]) + "\n"


def memory() -> list[str]:
    """What LoRA needs of each preset, from the estimator."""
    lengths = (512, 2048, 8192)
    parts = [
        "## What fits which card\n",
        "The table shows the GiB that LoRA needs, without activation checkpointing and with it. Settings: rank 16 on",
        "all linear layers, a bfloat16 base, and one example at a time, of which every token is trained. In brackets:",
        f"the smallest card with enough memory, of cards with {', '.join(map(str, CARDS))} GB.",
        "The numbers are computed; **no card has been measured**. Shorter examples need less, and so do prompts that",
        "are not trained. For other settings use `backprop estimate-vram`.\n",
        grid() + "\n",
        "| preset | " + " | ".join(f"{length} tokens" for length in lengths) + " |\n|---|" + "---|" * len(lengths),
    ]
    for name, preset in PRESETS.items():
        cells = [" · ".join(_need(preset.config, length, twice) for twice in (False, True)) for length in lengths]
        parts.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return [
        *parts,
        "",
        "The layers of linear attention of `qwen3.5-4b` are counted as PyTorch computes them. With the package",
        "flash-linear-attention they may need less; that was not measured.",
        "",
        *chosen(),
        "",
        *modes(),
    ]


def chosen() -> list[str]:
    """The mode that is chosen where none is set."""
    parts = [
        "## Which mode is chosen\n",
        "Without `--mode` the best that fits the free memory is taken: 16-bit weights (`lora`), with layers computed",
        f"again (marked +), or 4 bits (`qlora`). The table is for {BATCH_SIZE} examples a step of {MAX_LENGTH} tokens",
        f"each, on a card where a desktop has, and is left, {TAKEN:g} GiB. –: refused before the download, with what",
        "would fit.\n",
        f"| preset | {' | '.join(f'{card} GB' for card in CARDS)} |\n|---|" + "---|" * len(CARDS),
    ]
    for name, preset in PRESETS.items():
        shape = architecture(preset.config)
        if shape and shape.known:
            parts.append(f"| `{name}` | " + " | ".join(_chosen(preset.config, card) for card in CARDS) + " |")
    return parts


def _chosen(config: Mapping[str, Any], card: int) -> str:
    device = DeviceInfo("cuda", int((card - TAKEN) * GIB), "bfloat16")
    recipe, step = resolve(for_machine(TrainConfig(), device), full_rows(BATCH_SIZE, MAX_LENGTH), config)
    return f"{recipe.mode}{'+' if recipe.activation_checkpointing else ''}" if step.fits else "–"


def grid() -> str:
    """How far the estimates are from traces."""
    found = json.loads((RESULTS / "memory_grid.json").read_text(encoding="utf-8"))
    rows, summary = found["rows"], found["summary"]
    low, high = (pick(row["error"] for row in rows) for pick in (min, max))
    presets = len({row["preset"] for row in rows})
    return "\n".join(
        [
            "The formulas were compared with traces of the real training step. Traces compute nothing, so they need",
            f"no card. They cover {len(rows)} steps of {presets} presets, in every mode, with 512 to 8192 tokens, with",
            f"and without activation checkpointing. The median error is {summary['median']:.1%}; errors are between",
            f"{low:+.1%} and {high:+.1%}. Steps that were said to fit a card but do not: {summary['false']}",
            "([memory_grid.py](../benchmarks/memory_grid.py), [results](../benchmarks/results/memory_grid.json)).",
        ]
    )


def modes() -> list[str]:
    """What the ways to train need of each preset, and so which a card of 16 GB can."""
    parts = [
        "## What a card of 16 GB can train\n",
        f"The table shows the GiB for one example of {MODE_LENGTH} tokens at a time, with activation checkpointing.",
        "**Bold**: 16 are enough, desktop included. Mode full keeps its 8-bit moments on the card",
        "(`paged-adamw-8bit`, counted as if they stayed there), or where that is too small in the host's memory",
        "(`host-adamw-8bit`, marked h, 2 bytes a parameter). The formulas agree with traces of the real training step.",
        "Quantised kernels, paged moments and 8-bit optimizer states were **not measured on a card**.\n",
        f"| preset | {' | '.join(MODES)} |\n|---|" + "---|" * len(MODES),
    ]
    for name, preset in PRESETS.items():
        parts.append(f"| `{name}` | " + " | ".join(_mode(preset.config, mode) for mode in MODES) + " |")
    return [*parts, "", f"–: mode full refuses models with more than {FULL_LIMIT / 1e9:g} billion parameters."]


def _mode(config: Mapping[str, Any], mode: Mode) -> str:
    shape = architecture(config)
    settings = TrainConfig(mode=mode, micro_batch=1, activation_checkpointing=True)
    if not shape or not shape.known or (mode == "full" and shape.parameters > FULL_LIMIT):
        return "–"
    free = int((16 - TAKEN) * GIB)
    recipe, step = resolve(for_machine(settings, replace(CARD, free=free)), full_rows(8, MODE_LENGTH), config)
    assert step.estimate
    size = f"{step.estimate.total / GIB:.1f}{' h' if recipe.optimizer == ON_HOST else ''}"
    return f"**{size}**" if step.fits else size


def _need(config: Mapping[str, Any], length: int, twice: bool) -> str:
    shape = architecture(config)
    settings = TrainConfig(mode="lora", micro_batch=1, batch_size=8, activation_checkpointing=twice)
    if not shape or not shape.known:
        return "–"
    needed = resolve(for_machine(settings, CARD), full_rows(8, length), config)[1].estimate
    assert needed
    size = needed.total / GIB
    card = next((str(card) for card in CARDS if size <= card), "none")
    return f"{size:.1f} ({card})"


def errors() -> str:
    parts = [
        "# Errors\n",
        "Every error has a stable code. Exit status: 1 you can fix it (INPUT, CONFIG),",
        "2 the run or a dependency failed (DEP, RUNTIME, STATE),",
        f"{PARTLY_DONE} a part was done before the error, and stands (a GGUF that Ollama refuses), 130 interrupted.\n",
        "| code | exit | what happened | what to do |\n|---|---|---|---|",
    ]
    for code, kind in sorted(ERRORS.items()):
        what = (kind.__doc__ or "").replace("|", r"\|")
        parts.append(f"| `{code}` | {kind.exit_code} | {what} | {kind.fix} |")
    return "\n".join(parts) + "\n"


def glossary() -> str:
    """Each term with its meaning, and the pages and settings that use it."""
    pages = {page.name: page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))}
    parts = ["# Words\n", "What output, reports and these pages call things.\n"]
    parts.append("| word | meaning | met in |\n|---|---|---|")
    uses = {name: set(terms_in(text)) for name, text in pages.items() if name not in NO_USE}
    helps = {setting.name: set(terms_in(setting.help)) for setting in settings(TrainConfig)}
    for term, meaning in GLOSSARY.items():
        options = [f"`--{name.replace('_', '-')}`" for name, found in helps.items() if term in found]
        where = [f"[{name.removesuffix('.md')}]({name})" for name, found in uses.items() if term in found]
        parts.append(f"| **{term}** | {meaning} | {', '.join([*options[:4], *where[:5]])} |")
    return "\n".join(parts) + "\n"


def formats() -> str:
    parts = ["| format | keys |\n|---|---|"]
    for format in FORMATS:
        keys = " or ".join(", ".join(f"`{key}`" for key in names) for names in format.keys)
        parts.append(f"| {format.name} | {keys} |")
    return "\n".join(parts)


def kinds() -> str:
    parts = ["| kind | severity | what it is | what to do | repair |\n|---|---|---|---|---|"]
    for kind in KINDS.values():
        parts.append(f"| `{kind.name}` | {kind.severity} | {kind.meaning} | {kind.advice} | {kind.repair} |")
    return "\n".join(parts)


def parity() -> str:
    """Of the ten losses of a curve, the one that differs most."""
    rows = json.loads((RESULTS / "parity.json").read_text(encoding="utf-8"))["rows"]
    curve = [row for row in rows if row["what"].endswith(" of 10")]
    widest = max(curve, key=lambda row: row["difference"])
    kept = [row for row in rows if row not in curve or row is widest]
    parts = ["| what | of whom | ours | theirs | difference | allowed |\n|---|---|---|---|---|---|"]
    for row in kept:
        what = f"{row['what']}, the widest" if row is widest else row["what"]
        numbers = f"{row['ours']:.6g} | {row['theirs']:.6g} | {row['difference']:.0e} | {row['tolerance']:.1e}"
        parts.append(f"| {what} | {row['reference']} | {numbers} |")
    return "\n".join(parts)


def experiment() -> str:
    return "\n".join(json.loads((RESULTS / "multi_run.json").read_text(encoding="utf-8"))["table"])


def merging() -> str:
    """Bytes a second beside a copy's, and seconds of the other steps."""
    found = json.loads((RESULTS / "merge.json").read_text(encoding="utf-8"))
    parts = ["| what | seconds | GB/s | of a copy into new memory |\n|---|---|---|---|"]
    for name, speed in found["speeds"].items():
        rate = f"{speed['bytes_per_second'] / 1e9:.1f} | {speed['share']:.2f}"
        parts.append(f"| {name} | {speed['seconds']:.3f} | {rate} |")
    parts += [f"| {name} | {seconds:.2f} | | |" for name, seconds in found["seconds"].items() if seconds > 0.05]
    return "\n".join(parts) + f"\n\nThe most memory at a time: {found['peak_in_adapters']:.1f} adapters."


def former_commands() -> str:
    rows = [f"| `{words}` | {instead} |" for words, instead in COMMANDS.items()]
    return "\n".join(["| 1.x | 2.0 |", "|---|---|", *rows])


def former_options() -> str:
    """An option with its commands, one line for all that have it."""
    commands: dict[tuple[str, str], list[str]] = {}
    for command, options in OPTIONS.items():
        for option, instead in options.items():
            commands.setdefault((option, instead), []).append(f"`{command}`")
    rows = [f"| `{option}` of {', '.join(of)} | {instead} |" for (option, instead), of in commands.items()]
    return "\n".join(["| 1.x | 2.0 |", "|---|---|", *rows]).replace("| head", "\\| head")


def with_tables(name: str, **tables: str) -> str:
    """A page as it is, its tables written anew."""
    page = (DOCS / name).read_text(encoding="utf-8")
    for called, table in tables.items():
        begin, end = f"<!-- {called}: written by docs/generate.py -->\n", f"<!-- end of {called} -->"
        page = page[: page.index(begin)] + begin + table + "\n" + page[page.index(end) :]
    return page


def main(check: bool) -> int:
    stale = []
    whole = {"cli.md": cli(), "config.md": config(), "errors.md": errors(), "models.md": models()}
    whole["glossary.md"] = glossary()
    pages = {name: NOTE + page for name, page in whole.items()}
    pages["data.md"] = with_tables("data.md", formats=formats(), kinds=kinds())
    pages["methods.md"] = with_tables("methods.md", parity=parity())
    pages["multi-run.md"] = with_tables("multi-run.md", experiment=experiment(), merging=merging())
    pages["migration.md"] = with_tables("migration.md", commands=former_commands(), options=former_options())
    for name, page in pages.items():
        path = DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != page:
            stale.append(name)
            if not check:
                path.write_text(page, encoding="utf-8", newline="\n")
    if check and stale:
        print(f"stale: {', '.join(stale)}; run `uv run python docs/generate.py`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
