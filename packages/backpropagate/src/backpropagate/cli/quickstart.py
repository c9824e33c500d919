"""The command quickstart: the whole way once, on the embedded model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console

from bp_core.events import Progress

from ..example import EXAMPLE_DATA
from ..export.chat import speaker, user
from ..hints import command
from ..models import locate
from ..progress import Screen
from ..trainer import Trainer
from . import tables

QUESTIONS = ("When do you open?", "Where is Northlight Bakery?", "What is your sourdough starter called?")
_LIMIT = 40  # tokens of an answer


def quickstart(
    output: Annotated[str, typer.Option(help="Folder for everything that is written.")] = "output",
    steps: Annotated[int, typer.Option(help="Optimizer steps.", min=1)] = 48,
    backend: Annotated[str, typer.Option(help="Where to train.")] = "auto",
) -> None:
    """Train, prove, export and ask the embedded small model, from start to finish in a few minutes."""
    console = Console(stderr=True)
    console.print(
        f"[bold]Training {locate.DEFAULT} on {EXAMPLE_DATA.name}[/]: a bakery's own assistant. Files go to {output}."
    )
    trainer = Trainer(locate.DEFAULT, output=output, backend=backend)
    with Screen() as screen:
        locate.locate(locate.DEFAULT, screen.notify)
        before = _ask("ask the untrained model", screen, lambda q: trainer.generate(q, limit=_LIMIT, adapter=False))
    trainer.close()
    run = trainer.train(EXAMPLE_DATA, steps=steps)
    export = trainer.export("gguf", quantization="q4_k_m", overwrite=True)
    with Screen() as screen, speaker(str(export.path)) as model:
        after = _ask("ask the exported file", screen, lambda q: model.answer([user(q)], _LIMIT, lambda text: None))
    tables.show_run(run)
    tables.show_export(export)
    tables.show_answers(zip(QUESTIONS, before, after, strict=True))
    Console().print(
        f"\nTalk to it:        [bold]{command('chat', export.path)}[/]"
        f"\nTrain on your own: [bold]{command('train', '--data my_data.jsonl --steps 100')}[/]",
        soft_wrap=True,  # a command must not be broken where it is copied
    )


def _ask(stage: str, screen: Screen, answer: Callable[[str], str]) -> list[str]:
    answers = []
    for done, question in enumerate(QUESTIONS):
        screen.notify(Progress(stage, done, len(QUESTIONS)))
        answers.append(answer(question).strip())
    return answers
