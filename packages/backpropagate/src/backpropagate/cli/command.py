"""What every command has in common."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from typer.core import TyperCommand

from bp_core.settings import Panel
from bp_runs.run_folder import NEWEST


class Command(TyperCommand):
    """A command whose help is asked for by hand alone, and stands in the last panel."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if option is not None:
            option.allow_from_autoenv = False  # a variable BACKPROPAGATE_TRAIN_HELP would replace every training
            if any(getattr(parameter, "rich_help_panel", None) for parameter in self.params):
                option.rich_help_panel = Panel.OUTPUT
        return option


class Resumable(Command):
    """A command whose --resume may stand alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words: list[str] = []
        for word, after in zip_longest(args, args[1:], fillvalue="--"):
            words += [word, NEWEST] if word == "--resume" and after.startswith("--") else [word]
        return super().parse_args(ctx, words)
