"""The same questions answered by the base, by what was trained, and by the exported file: side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bp_core.backends import choose_rail
from bp_core.errors import BadValue, OutputUnusable
from bp_core.events import Notify, Progress
from bp_core.redact import redact
from bp_data.reading.files import Data
from bp_data.tokenizer.question import asked as asked_by_user
from bp_eval.config import CompareConfig
from bp_eval.questions import Question, answering, ask

from ..export.chat import completed, gguf, user
from ..models.targets import Artifact
from ..reports import document
from ..reports.document import Answers, Block, Heading
from .evaluate import opened
from .rows import check_data, given, questions_in, to_show

TUNED, BASE, EXPORTED, EXPECTED = "tuned", "base", "exported", "in the data"
_SUFFIXES = (".md", ".html")


@dataclass(frozen=True)
class Comparison:
    """Answers to each question by who gave them: base, tuned, exported, and where it has one, the data."""

    target: str
    source: str
    questions: Sequence[Question]
    answers: Mapping[str, Sequence[str]]

    def as_dict(self) -> dict[str, Any]:
        rows = zip(*self.answers.values(), strict=True)
        pairs = zip(self.questions, rows, strict=True)
        asked = []
        for question, row in pairs:
            texts = {"question": question.asked, "prompt": question.text}
            asked.append(texts | dict(zip(self.answers, row, strict=True)))
        return {"target": self.target, "source": self.source, "questions": asked}

    def write(self, path: Path) -> list[Path]:
        """Write the page as Markdown and as HTML, named as `path` with either ending. Raises OutputUnusable."""
        document.write(list(self._blocks()), path.parent, path.stem)
        return [path.with_suffix(suffix) for suffix in _SUFFIXES]

    def _blocks(self) -> Iterator[Block]:
        yield Heading(f"Answers of {self.target}", 1)
        count = len(self.questions)
        yield f"Questions: {count}, {self.source}. Each answer is greedy: the likeliest token every time."
        rows = zip(*self.answers.values(), strict=True)
        for number, (question, row) in enumerate(zip(self.questions, rows, strict=True), 1):
            yield Heading(f"Question {number}")
            answers = [(who, redact(answer)) for who, answer in zip(self.answers, row, strict=True)]
            yield Answers(redact(question.asked or question.text), answers, redact(question.text), TUNED)


def compare(
    name: str | Path,
    prompts: Sequence[str],
    data: Data | None,
    config: CompareConfig,
    notify: Notify,
    /,
    **reading: Any,
) -> Comparison:
    """Ask a trained model, its base, and the GGUF that the settings name. A model as it came has no second column.

    Asked are `prompts`, or questions out of `data`, read as for `evaluate`, or else of the run's own rows. Raises
    TargetNotFound, BadValue, OutputUnusable if something is at `output`, and the errors of reading and opening.
    """
    check_data(data, reading.get("columns", ""))
    if prompts and data:
        raise BadValue("prompts and data are both given: use one of them.")
    source = Artifact.find(name)
    job = source.reading_job(config.dtype, notify, config.base)
    choose_rail(config.backend)
    if config.output:
        _require_free(Path(config.output))
    jobs = {BASE: source.base_job(job, notify)} | ({TUNED: job} if source.is_trained else {})
    tokenizer = source.tokenizer(job.model)
    if prompts:
        asked, stop = "asked directly", tokenizer.stop_ids(source.contract_on(job.model))
        tokens = [tokenizer.prompt([user(text)]) for text in prompts]
        questions = [Question(ids, tokenizer.decode(ids)) for ids in tokens]
    else:
        if data is None:
            rows = to_show(tokenizer, source, notify)
        else:
            rows = given(tokenizer, data, replace(source.settings, **reading), None, notify)
        asked, stop = rows.source, tokenizer.stop_ids(rows.contract)
        questions = questions_in(rows, config.answers)
    questions = [replace(one, asked=asked_by_user(tokenizer, one.text)) for one in questions]
    exported = {EXPORTED: _answers_of_file(Path(config.file), questions, config, notify)} if config.file else {}
    answers = {}
    for who, opening in jobs.items():
        with opened(who, opening, config.backend, notify) as rail:
            answer = answering(rail, tokenizer.decode, stop, config.max_tokens, to_read=True)
            answers[who] = ask(answer, questions, f"answers: {who}", notify)
    known = [question.expected for question in questions]
    expected = {EXPECTED: known} if any(known) else {}
    return Comparison(source.name, asked, questions, answers | exported | expected)


def _require_free(path: Path) -> None:
    """Raise OutputUnusable if anything lies where the page will."""
    for taken in (path.with_suffix(suffix) for suffix in _SUFFIXES):
        if taken.exists():
            raise OutputUnusable("this file exists already.", where=str(taken), fix="Choose another --output.")


def _answers_of_file(file: Path, questions: Sequence[Question], config: CompareConfig, notify: Notify) -> list[str]:
    """The GGUF gets each prompt as text, and makes tokens of it with its own vocabulary."""
    notify(Progress(f"load {file.name}", 0, 0))
    with gguf(file) as (engine, facts):

        def answer(question: Question) -> str:
            return completed(engine, facts, question.text, config.max_tokens).strip()

        return ask(answer, questions, f"answers: {EXPORTED}", notify)
