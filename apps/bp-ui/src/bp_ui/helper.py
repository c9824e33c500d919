"""`python -m bp_ui.helper KIND`: a process that answers the page's questions for which the server would need torch.

One JSON object a line comes in, one or more go out; the last has "done". What it knows costs nothing to lose: the page
starts another one. Training is never done here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from typing import Any, TextIO

from backpropagate.export.chat import Talker, talker
from backpropagate.export.chat_config import ChatConfig
from backpropagate.export.reply import Kind
from backpropagate.models import locate
from backpropagate.models.targets import Artifact
from backpropagate.multi_run.session import plan_session
from backpropagate.privacy import disable_telemetry
from backpropagate.progress import silent
from backpropagate.trainer import Trainer
from bp_core.backends import find, rails
from bp_core.config import DataConfig
from bp_core.errors import BackpropagateError, FileUnreadable
from bp_core.redact import redact_all
from bp_data import ChatTokenizer, convert, read
from bp_data.formats.records import Tools, demonstrations
from bp_data.formats.served_schema import with_schema
from bp_data.masking.each_thought import with_each_thought
from bp_data.reading.columns import as_it_is
from bp_data.reading.context import Remark
from bp_data.show import show
from bp_plan.architecture import architecture
from bp_plan.plan import Plan
from bp_plan.presets import PRESETS

from .memory_limit import limit_memory
from .verbs import session_settings

Question = Mapping[str, Any]
Answers = Iterator[dict[str, Any]]
_SHOWN = 20_000  # characters of a row


def rows(question: Question) -> Answers:
    """Rows of a file as they lie, and as the model sees them; a row that cannot be read comes with its error."""
    file, reading = question["file"], DataConfig(**question["reading"])
    if os.path.realpath(file) != file:
        raise FileUnreadable("the file was exchanged meanwhile.", where=file)
    model = question.get("model")
    tokenizer = None
    if model:
        opened = ChatTokenizer.open(locate.locate(model, silent, weights=False))
        tokenizer = opened.with_tools(question["tools_template"])
    remarks: list[str] = []

    def tell(remark: Remark) -> None:
        remarks.append(remark.message)

    def fault(error: BackpropagateError) -> None:
        faults.append(error.as_dict())

    faults: list[dict[str, Any]] = []
    skip, count = question["skip"], question["count"]
    lying = read(file, as_it_is(reading), fault)
    seen = read(file, reading, fault, tell)
    found = []
    for raw, row in islice(zip(lying, seen, strict=False), skip, skip + count):
        text = json.dumps(raw.value, indent=2, ensure_ascii=False, default=str)
        found.append({"where": raw.where, "raw": text[:_SHOWN], **_as_seen(row, tokenizer, question)})
    yield {"rows": found, "remarks": remarks[:5], "faults": faults[:20]}


def _as_seen(row: Any, tokenizer: ChatTokenizer | None, question: Question) -> dict[str, Any]:
    """A row with its learned stretches, or why the model cannot see it."""
    if tokenizer is None:
        return {"seen": []}
    try:
        record = convert(row)
        written = [with_schema(one, question["tool_schema"]) for one in demonstrations(record)]
        train_on = question["train_on"]
        parts = [part for one in written for part in with_each_thought(one, tokenizer, train_on)]
        views = [show(one, tokenizer, train_on) for one in parts]
    except BackpropagateError as error:
        return {"seen": [], "error": error.as_dict()}
    seen = []
    for view in views:
        stretches = [[text[:_SHOWN], learned] for text, learned in view.stretches()]
        seen.append({"stretches": stretches, "tokens": len(view.tokens), "learned": sum(view.trained)})
    return {"format": record.format, "seen": seen}


def plan(question: Question) -> Answers:
    """What a training would do: its recipe with reasons, memory, disk, time. Or which backends and models are here."""
    what = question.get("what")
    if what == "backends":
        yield {name: dataclasses.asdict(find(name).probe()) for name in rails()}
        return
    if what == "models":
        yield {"models": [_preset(name) for name in PRESETS], "cache": str(locate.downloads())}
        return
    if "merging" in question:
        yield _of_stages(question)
        return
    yield _told(Trainer(**question["settings"]).plan(question["data"], notify=silent))


def _told(found: Plan) -> dict[str, Any]:
    """A plan as JSON."""
    told = found.as_dict()
    told["message"] = found.preflight.message()
    told["recipe"] = {field.name: getattr(found.recipe, field.name) for field in dataclasses.fields(found.recipe)}
    answer: dict[str, Any] = json.loads(json.dumps(told, default=str))
    return answer


def _of_stages(question: Question) -> dict[str, Any]:
    """The plan of a session's first stage, the stages with their steps, and the time of all together."""
    config, multi = session_settings(question["settings"], question["merging"])
    found = plan_session(config, multi, question["data"], Trainer, silent)
    own = [found.plans[0] if multi.runs else found.plans[number] for number in range(len(found.sources))]
    stages = [
        {"name": source.stage.name, "rows": source.count, "steps": plan.recipe.steps}
        for source, plan in zip(found.sources, own, strict=True)
    ]
    seconds = [plan.preflight.seconds for plan in own]
    told = _told(found.plans[0])
    told["preflight"]["seconds"] = None if None in seconds else sum(seconds)  # type: ignore[arg-type]
    told["remarks"] = [*found.notes, *told["remarks"]]
    return told | {"stages": stages}


def _preset(name: str) -> dict[str, Any]:
    preset, shape = PRESETS[name], architecture(PRESETS[name].config)
    _, _, download = locate.shape(name)
    told = {"name": name, "hub_id": preset.hub_id, "licence": preset.licence, "restrictions": preset.restrictions}
    return told | {"here": download is None, "parameters": shape.parameters if shape else None}


class _StoppedError(Exception):
    """Whoever asked has heard enough."""


def _is_called() -> bool:
    """Whether a line came in meanwhile, which is then read: it asks to stop. Windows cannot look into a pipe."""
    if os.name == "nt" or not select.select([0], [], [], 0)[0]:
        return False
    sys.stdin.readline()
    return True


class Chats:
    """The model that is open to talk to, with its tools; each of the three columns has a process of its own."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._name = ""
        self._given: Tools = ()
        self._open_with: tuple[Talker, Tools] | None = None

    def __call__(self, question: Question) -> Answers:
        """The answer to a conversation: pieces of its thought and its text, and at the end all of it as a turn."""
        config = ChatConfig(max_tokens=question["limit"], think=question["think"])
        model, tools = self._open(question["model"], tuple(question["tools"]), config)
        yield {"opened": True}

        def tell(kind: Kind, text: str) -> None:
            _write({kind: text})
            if _is_called():
                raise _StoppedError

        try:
            reply = model.reply(question["turns"], config, tools, tell)
        except _StoppedError:
            yield {"stopped": True}
        else:
            yield {"turn": reply.turn(), "closed": reply.closed}

    def _open(self, model: Mapping[str, str], tools: Tools, config: ChatConfig) -> tuple[Talker, Tools]:
        name = model.get("name") or _of_run(model["run"], model["column"])
        if self._open_with is None or (name, tools) != (self._name, self._given):
            self._stack.close()
            self._open_with = None
            self._open_with = self._stack.enter_context(talker(name, config, tools))
            self._name, self._given = name, tools
        return self._open_with


def _of_run(run: str, column: str) -> str:
    """What a column of a run is called: its base, the folder that was trained, or its newest file."""
    artifact = Artifact.find(run)
    if column == "file":
        return str(artifact.require_gguf())
    if column == "trained":
        return str(artifact.require_folder())
    record = artifact.record
    return str(record["base"] if os.path.isdir(record["base"]) else record["recipe"]["model"])


_KINDS: dict[str, Callable[[], Callable[[Question], Answers]]] = {
    "rows": lambda: rows,
    "plan": lambda: plan,
    "chat": Chats,
}
_out: TextIO = sys.stdout


def _write(answer: Mapping[str, Any]) -> None:
    print(json.dumps(answer), file=_out, flush=True)


def main(kind: str) -> None:
    """Answer until there is nobody who asks."""
    disable_telemetry()
    if kind == "rows":
        limit_memory()
    answer = _KINDS[kind]()
    for line in sys.stdin:
        try:
            for told in answer(json.loads(line)):
                _write(told)
            _write({"done": True})
        except BackpropagateError as error:
            _write({"done": True, "error": redact_all(error.as_dict())})
        except MemoryError:
            fix = "Split the file, or use a smaller one."
            error_told = {"code": "INPUT_FILE_TOO_LARGE", "message": "this needs too much memory.", "fix": fix}
            _write({"done": True, "error": error_told | {"where": None}})


if __name__ == "__main__":
    _out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    main(sys.argv[1])
