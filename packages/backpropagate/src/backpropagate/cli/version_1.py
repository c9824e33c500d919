"""What version 1 of Backpropagate called commands and options, and what to write in their place.

Only those that are not understood any more. `cli/exit_codes.py` tells them, docs/migration.md lists them.
"""

from __future__ import annotations

from collections.abc import Mapping

# A command by its words, and what to do in its place.
COMMANDS: Mapping[str, str] = {
    "generate": "use `chat`; `chat --prompt` asks one question",
    "runs": "use `list-runs`",
    "validate": "use `data check`",
    "data report": "use `data check`, and `data show`",
    "config": "`train --dry-run` shows every setting and why it is so; a variable for each is in docs/config.md",
    "ollama shelf": "newer Ollama refuses adapters; export a merged GGUF with `export`",
}

_DERIVED = "gone: it follows from the free memory, and is printed by `--dry-run`"
_LOG = "gone: progress goes to stderr; `2> FILE` keeps it, and `--log-format` chooses its form"
_TOKEN = "gone: set HF_TOKEN, or `hf auth login`; a token in a command line is read by others"
_PUSH = "use `push`, and `push --gguf` for the GGUF files"
_BY_ID = "gone: a run is found by its id, wherever it lies"
_BLOCKS = "gone: with too little memory, mode full keeps its optimizer on the host; `--full-ft-offload` for more"
_PAGE = "gone: the page starts its runs by itself"
_SHAPE = {
    "--lora-r": "use `--rank`",
    "--no-4bit": "use `--mode lora`",
    "--no-gradient-checkpointing": "use `--no-activation-checkpointing`",
    "--ui-run-dir": _PAGE,
}
_TRAINING = {
    **_SHAPE,
    "--lr": "use `--learning-rate`",
    "--lora-alpha": "use `--alpha`",
    "--lora-dropout": "use `--dropout`",
    "--use-dora": "use `--dora`",
    "--use-rslora": "use `--rslora`",
    "--init-lora-weights": "use `--init`",
    "--optim": "use `--optimizer`, with dashes: `paged-adamw-8bit`",
    "--orpo-beta": "use `--beta`",
    "--simpo-beta": "use `--beta`",
    "--kto-beta": "use `--beta`",
    "--simpo-gamma": "use `--gamma`",
    "--kto-desirable-weight": "use `--desirable-weight`",
    "--kto-undesirable-weight": "use `--undesirable-weight`",
    "--run-name": "use `--name`",
    "--gpu-max-temp": "use `--max-temp`",
    "--verbose": _LOG,
    "--log-level": _LOG,
    "--log-file": _LOG,
}
# A command, its former options, and what to do in the place of each.
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "train": {
        **_TRAINING,
        "--full-ft-ceiling-billions": _DERIVED,
        "--full-ft-engine": _BLOCKS,
        "--switch-block-every": _BLOCKS,
        "--block-order": _BLOCKS,
        "--block-writeback": _BLOCKS,
        "--block-freeze-embeddings": _BLOCKS,
    },
    "multi-run": {
        **_TRAINING,
        "--merge-mode": "use `--merge`",
        "--merge-strategy": "use `--merge`",
        "--ties-trim": "use `--density`, the share that is kept: 1 less what was trimmed",
        "--dare-drop-rate": "use `--density`, the share that is kept: 1 less what was dropped",
        "--dare-seed": "use `--seed`",
        "--drift-gate": "use `--gate`",
        "--drift-threshold": "use `--gate`, in nats a token",
        "--eval-gate": "use `--gate`",
        "--eval-max-regression": "use `--gate`, in nats a token",
        "--eval-heldout": "use `--held-out`",
    },
    "export": {
        "--base-model": "use `--base`",
        "--adapter-tag": "gone: newer Ollama refuses adapters; export a merged GGUF",
        "--no-model-card": "gone: `push` writes the card, and `push --dry-run` shows it",
        "--push-to-hub": _PUSH,
        "--hub-private": "use `push --private`",
        "--hub-token": _TOKEN,
        "--hub-token-file": _TOKEN,
        "--ui-run-dir": _PAGE,
    },
    "push": {
        "--token": _TOKEN,
        "--token-file": _TOKEN,
        "--include-base": "gone: upload a merged model: `export --format merged`, then `push` that folder",
        "--hub-revision": "gone: it goes to the repository's main branch",
        "--hub-commit-message": "gone: the message says what was pushed",
    },
    "resume": {"--data": "gone: a resumed run reads the data that it began with"},
    "info": {
        "--error-codes": "use `errors`",
        "--env-vars": "gone: docs/config.md lists the variables",
        "--subcommand-tiers": "gone: `backprop --help` lists the commands",
    },
    "list-runs": {"--output": "gone: every run of this machine is listed", "--limit": "gone: use `| head`"},
    "show-run": {"--output": _BY_ID},
    "diff-runs": {"--output": _BY_ID, "--format": "use `--json`"},
    "replay": {"--output": _BY_ID, "--override": "use `--set`"},
    "export-runs": {"--to": "use `--output`", "--status": "gone: use `list-runs --status`"},
    "ui": {
        "--auth-file": "gone: set BACKPROPAGATE_UI_AUTH to name:password",
        "--open-browser": "use `--open`",
    },
    "estimate-vram": {
        **_SHAPE,
        "--vram-gb": "use `--memory`",
        "--full-ft-offload": "use `--mode full`, which says what it needs",
        "--calibrate": "gone: the formulas are held against traces, and need no calibration",
        "--no-calibration": "gone: the formulas are held against traces, and need no calibration",
    },
    "eval": {
        "--vs": "use `--against`",
        "--gate-against": "use `--against`, and a condition such as `--gate 'loss_change<0'`",
        "--output": _BY_ID,
        "--heldout": "use `--data`",
        "--prompts": "use `compare --prompt`, once for each",
        "--num-samples": "use `--samples`",
        "--max-new-tokens": "use `--max-tokens`",
        "--max-regression": "use a condition such as `--gate 'loss_change<0.1'`",
        "--seed": "gone: answers are greedy, and the same each time",
        "--metric": "gone: all are measured",
        "--eval-set": "use `--data`",
        "--references": "gone: the answers in the data are the references",
        "--gate-metric": "use `--gate`, whose conditions name what is measured",
        "--allow-code-exec": "gone: no code of a model is run; `lm-eval` has tasks for code",
        "--code-exec-timeout": "gone: no code of a model is run; `lm-eval` has tasks for code",
    },
    "data split": {
        "--heldout-ratio": "use `--held-out`",
        "--out-train": "use `--output`, a folder for both files",
        "--out-heldout": "use `--output`, a folder for both files",
    },
    "ollama register": {
        "--name": "gone: the name stands behind the file",
        "--modelfile": "gone: a Modelfile beside the file is read, and kept",
    },
}


def replaced_command(words: str) -> str | None:
    """What to do in the place of a command of version 1; None for any other word."""
    return COMMANDS.get(words)


def replaced_option(command: str, option: str) -> str | None:
    """What to do in the place of an option of version 1; None for any other."""
    return OPTIONS.get(command, {}).get(option)
