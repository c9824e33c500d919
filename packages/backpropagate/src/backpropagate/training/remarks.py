"""What a user should know of data and model before the hours of training are spent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bp_core.choices import ToolSchema, ToolsTemplate
from bp_core.config import TrainConfig
from bp_core.contract import Contract
from bp_core.recipe import Recipe
from bp_core.units import counted
from bp_data import ChatTokenizer, Prepared, Report
from bp_data.preparing.overlap import overlap
from bp_plan.defaults import learning_rate as usual_rate

_FEW_STEPS = 10
_FEW_HELD_OUT = 20  # rows; from fewer an evaluation says little
FLATTERED = "the evaluation looks better than it is."
_HIGH_RATE = 20  # times the rate that would be chosen


def remarks(
    config: TrainConfig,
    recipe: Recipe,
    prepared: Prepared,
    held_out: Any,
    tokenizer: ChatTokenizer,
    model: Mapping[str, Any],
) -> Iterator[str]:
    """In words. `held_out` are the examples to evaluate on; `model` is the base's config.json."""
    report, contract = prepared.report, prepared.contract
    rows = len(prepared.packed) if prepared.packed is not None else report.examples
    yield from _of_length(recipe.max_length, report.longest, positions(model))
    yield from _of_template(contract, tokenizer)
    yield from _of_tools(config.tools_template, config.tool_schema, contract, report)
    yield from _of_thoughts(contract)
    yield from _of_steps(config, recipe, rows)
    yield from _of_rate(config, recipe, model)
    if len(held_out):
        yield from _of_evaluation(config, prepared, held_out, tokenizer)


def positions(model: Mapping[str, Any]) -> int | None:
    """The greatest number of tokens that a model was made for; None where its config.json does not say."""
    for part in (model, model.get("text_config") or {}):
        if isinstance(found := part.get("max_position_embeddings"), int):
            return found
    return None


def _of_length(max_length: int, longest: int, most: int | None) -> Iterator[str]:
    """`longest` row of the data and `most` that the model was made for, in tokens."""
    if most is None or max_length <= most:
        return
    longest = min(longest, max_length)
    used = f"the longest row has {longest} tokens" if longest <= most else f"rows of up to {longest} tokens are trained"
    yield f"max_length is {max_length}, but the model was made for {most} tokens; {used}."


def _of_template(contract: Contract, tokenizer: ChatTokenizer) -> Iterator[str]:
    if tokenizer.has_template or not contract.template:
        return
    marks = [mark for mark in ("<|im_start|>", "<|im_end|>") if tokenizer.token(mark) is None]
    told = "the model has no chat template: conversations are written in ChatML, in training and in every export"
    if marks:
        told += f"; its tokenizer has no {' and no '.join(marks)}, which are written as ordinary text"
    yield f"{told}. A model that was made for chat (…-Instruct) needs fewer examples."


def _of_tools(asked: ToolsTemplate, schema: ToolSchema, contract: Contract, report: Report) -> Iterator[str]:
    """`asked` and `schema` are the settings tools_template and tool_schema."""
    if contract.tools_template != "none":
        form = contract.tools_template
        yield f"the base's chat template has no tools: those of {form} are added, in training and in every export."
    elif asked != "none":
        yield f"tools_template is {asked}, but no row has tools or calls: nothing is added."
    if not report.schema_keys:
        return
    keys = ", ".join(f"{key} ({counted(count, 'row')})" for key, count in sorted(report.schema_keys.items()))
    first = report.places["schema_keys"][0]
    if schema == "served":
        told = f"the tools' schemas have keys that Ollama does not pass on, and are learned without: {keys}"
        yield f"{told}; first at {first}. --tool-schema as-is learns them, for servers that do."
    else:
        told = f"the tools' schemas are learned with keys that Ollama does not pass on: {keys}"
        yield f"{told}; first at {first}. There the model sees another text; --tool-schema served learns that one."


def _of_thoughts(contract: Contract) -> Iterator[str]:
    if contract.adds_thoughts:
        yield (
            "the base's chat template has no thoughts: they are added (<think>, reasoning_content, and "
            "enable_thinking=false to leave them out), in training and in every export."
        )


def _of_steps(config: TrainConfig, recipe: Recipe, rows: int) -> Iterator[str]:
    if config.batch_size and config.batch_size > recipe.batch_size:
        yield f"batch_size is {config.batch_size}, but there are {rows} rows: {recipe.batch_size} are learned a step."
    if recipe.steps >= _FEW_STEPS or config.steps is not None:
        return
    by = []
    if recipe.packing:
        by.append("leave packing out")
    if recipe.batch_size > 1:
        by.append("a smaller --batch-size")
    by.append("more --epochs")
    count = "1 step teaches" if recipe.steps == 1 else f"{recipe.steps} steps teach"
    yield f"{count} little; more come of: {', '.join(by)}, or --steps."


def _of_rate(config: TrainConfig, recipe: Recipe, model: Mapping[str, Any]) -> Iterator[str]:
    if config.learning_rate is None:
        return
    usual, _ = usual_rate(model, config)
    if recipe.learning_rate > _HIGH_RATE * usual:
        times = recipe.learning_rate / usual
        yield f"learning_rate {recipe.learning_rate:g} is {times:.0f} times the usual {usual:g}: it may undo the model."


def _of_evaluation(config: TrainConfig, prepared: Prepared, held_out: Any, tokenizer: ChatTokenizer) -> Iterator[str]:
    found = overlap(prepared.examples, held_out, tokenizer.decode)
    where = "rows of eval_data" if config.eval_data else "held-out rows"
    if found.equal == found.rows:
        yield f"all {where} ({found.rows}) are trained on, too: their loss says nothing about other questions."
    elif found.equal:
        yield f"of {found.rows} {where} {_are(found.equal)} trained on, too; {FLATTERED}"
    if found.near:
        yield f"of {found.rows} {where} {_are(found.near)} nearly the same as a training row; {FLATTERED}"
    if found.rows < _FEW_HELD_OUT:
        count = "1 row is" if found.rows == 1 else f"{found.rows} rows are"
        yield f"only {count} evaluated on, which tells better from worse only where they are far apart."


def _are(number: int) -> str:
    return "1 is" if number == 1 else f"{number} are"
