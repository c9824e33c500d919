"""The model card: what was trained from what and how, what it says now, and how to run it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData, metadata_load, try_to_load_from_cache

from bp_core.clashes import CLASHES
from bp_core.config import TrainConfig
from bp_core.redact import redact
from bp_core.settings import Trait, idle, names
from bp_core.units import counted, gigabytes, short
from bp_export.hub import Item
from bp_runs import Summary, history, read_events
from bp_runs.lock_file import LOCK_FILE, Lock

from ..reports import run_report
from ..reports.document import Block, Code, Heading, Picture, Table, markdown
from .files import Base, Gguf, Parcel

CARD = "README.md"
_WHAT = {
    "adapter": "A LoRA adapter for",
    "model": "Trained from",
    "gguf": "A GGUF model trained from",
    "gguf-lora": "A LoRA adapter, as GGUF, for",
}
_LIBRARY = {"adapter": "peft", "model": "transformers", "gguf": "gguf", "gguf-lora": "gguf"}
_LOADERS = {"adapter": ("peft", "AutoPeftModelForCausalLM"), "model": ("transformers", "AutoModelForCausalLM")}
_TRANSFORMERS = """\
{imports}

model = {loader}.from_pretrained("{repo}")
tokenizer = AutoTokenizer.from_pretrained("{repo}")
messages = [{{"role": "user", "content": "Hello!"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
tokens = model.generate(**inputs, eos_token_id=tokenizer.eos_token_id, max_new_tokens=200)
answer = tokens[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))"""
_RELATION = {"adapter": "adapter", "model": "finetune", "gguf": "quantized", "gguf-lora": "adapter"}


def card(parcel: Parcel, repo: str, *, samples: bool) -> list[Item]:
    """README.md with the hub's front matter, and the pictures it shows."""
    blocks = [
        Heading(repo.rpartition("/")[2], 1),
        _summary(parcel),
        *_how_to_run(parcel, repo),
        *_training(parcel, samples),
        *(block for gguf in parcel.ggufs for block in _proof(gguf)),
        *_licence(parcel.base),
    ]
    text = f"---\n{_front_matter(parcel).to_yaml()}\n---\n\n{markdown(blocks)}"
    pictures = [Item(block.file, block.svg.encode()) for block in blocks if isinstance(block, Picture)]
    return [Item(CARD, redact(text).encode()), *pictures]


def _front_matter(parcel: Parcel) -> ModelCardData:
    """What the hub sorts and links models by. What is not known is left out."""
    base, kind = parcel.base, parcel.kind
    hub_id = base.hub_id if base else None
    method = parcel.source.recipe.get("method")
    tags = ["backpropagate", *(["lora"] if "lora" in kind or kind == "adapter" else []), method]
    return ModelCardData(
        base_model=hub_id,
        base_model_relation=_RELATION[kind] if hub_id else None,
        library_name=_LIBRARY[kind],
        pipeline_tag="text-generation",
        tags=[*filter(None, tags), *(["gguf"] if parcel.ggufs else [])],
        **_licence_fields(base),
    )


def _summary(parcel: Parcel) -> str:
    base = parcel.base
    name = base.name if base else "a model that is not known"
    elsewhere = "" if base is None or base.hub_id else ", which is not on the Hub"
    return f"{_WHAT[parcel.kind]} {name}{elsewhere}; made with Backpropagate."


def _how_to_run(parcel: Parcel, repo: str) -> list[Block]:
    """One block for each program that can run what is there."""
    whole = [gguf.path for gguf in parcel.ggufs if not gguf.is_adapter]
    adapters = [gguf.path for gguf in parcel.ggufs if gguf.is_adapter]
    blocks: list[Block] = [Heading("Run it")]
    if parcel.kind in _LOADERS:
        blocks.append(_with_transformers(parcel.kind, repo))
    if whole:
        blocks.append(Code("With llama.cpp:", "\n".join(f"llama-cli -hf {repo} -hff {p.name}" for p in whole), "bash"))
        blocks.append(Code("With Ollama:", "\n".join(f"ollama run hf.co/{repo}:{p.name}" for p in whole), "bash"))
    if adapters:
        lines = "\n".join(f"llama-cli -m BASE.gguf --lora {path.name}" for path in adapters)
        blocks.append(Code("With llama.cpp, on a GGUF of the base:", lines, "bash"))
    return blocks


def _with_transformers(kind: str, repo: str) -> Block:
    package, loader = _LOADERS[kind]
    if package == "peft":
        label = "With transformers and peft:"
        imports = f"from peft import {loader}\nfrom transformers import AutoTokenizer"
    else:
        label = "With transformers:"
        imports = f"from transformers import {loader}, AutoTokenizer"
    return Code(label, _TRANSFORMERS.format(imports=imports, loader=loader, repo=repo), "python")


def _training(parcel: Parcel, samples: bool) -> list[Block]:
    run = parcel.source.run
    if run is None or not (run.path / LOCK_FILE).is_file():
        return []
    lock, record = Lock.read(run.path), parcel.source.record
    blocks: list[Block] = [Heading("Training"), Table(("", ""), _facts(lock, record, history.summed(run)[0]))]
    blocks += run_report.curve(list(read_events(run.path)), details=False)
    blocks += run_report.before_and_after(run, expected=False) if samples else []
    return [*blocks, Heading("Recipe"), Table(("setting", "value"), recipe_rows(lock.recipe))]


def _facts(lock: Lock, record: Mapping[str, Any], summary: Summary) -> list[tuple[str, str]]:
    counts, held_out = record.get("counts", {}), record.get("eval_loss")
    formats = ", ".join(f"{name} ({counted(rows, 'row')})" for name, rows in counts.get("formats", {}).items())
    versions = ", ".join(f"{name} {lock.packages[name]}" for name in ("backpropagate", "torch") if lock.packages[name])
    rows = [
        ("data, SHA-256", lock.hashes["data"]),
        ("data, format", formats),
        ("examples", f"{counts.get('examples', '')}, {counts.get('targets', '')} trained tokens in a pass"),
        ("steps", str(summary.step)),
        ("loss", " → ".join(run_report.number_text(loss) for loss in (summary.first_loss, summary.last_loss))),
        ("loss on held-out rows", "" if held_out is None else run_report.number_text(held_out)),
        ("device", str(lock.hardware["device"])),
        ("versions", versions),
    ]
    return [(name, value) for name, value in rows if value]


def recipe_rows(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What decides what is learned. 0 and "" mean never and nothing."""
    hidden = {"why", *names(TrainConfig, Trait.FREE), *names(TrainConfig, Trait.LOCAL), *idle(recipe, CLASHES)}
    return [(name, str(value)) for name, value in recipe.items() if value and name not in hidden]


def _proof(gguf: Gguf) -> list[Block]:
    """What was compared between the file and the model that was trained, in numbers."""
    size, parity = gigabytes(gguf.path.stat().st_size), gguf.parity
    if parity is None:
        return [Heading(gguf.path.name), f"{size}. There is no proof of this file."]
    marks = {True: "passed", False: "failed"}
    rows = [
        (c["name"], short(c["measured"]), short(c["limit"]), " ".join(filter(None, (marks[c["passed"]], c["note"]))))
        for c in parity["checks"]
    ]
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in parity["losses"].items())
    told = [f"{size}, SHA-256 {parity['sha256']}.", *([f"Loss on the same rows: {losses}."] if losses else [])]
    if not parity["proven"]:
        failed = ", ".join(check["name"] for check in parity["checks"] if not check["passed"])
        told.insert(0, f"**Not proven to be the model that was trained**; these checks failed: {failed}.")
    return [Heading(gguf.path.name), *told, Table(("check", "measured", "allowed", ""), rows)]


def _licence(base: Base | None) -> list[Block]:
    preset = base.preset if base else None
    if preset is None:
        return []
    restrictions = f", with restrictions: {preset.restrictions}" if preset.restrictions else ""
    return [Heading("Licence"), f"That of the base: {preset.licence}{restrictions}."]


def _licence_fields(base: Base | None) -> dict[str, str]:
    """The licence of the base as its own page says it, else as the presets do; empty where neither does."""
    if base is None:
        return {}
    said = _page(base)
    if said.get("license"):
        return {name: str(said[name]) for name in ("license", "license_name", "license_link") if said.get(name)}
    return _hub_licence(base.preset.licence) if base.preset else {}


def _page(base: Base) -> dict[str, Any]:
    """The front matter of the base's README.md, where it is on this machine."""
    cached = try_to_load_from_cache(base.hub_id, CARD) if base.hub_id else None
    path = Path(cached) if isinstance(cached, str) else None
    if base.folder and (base.folder / CARD).is_file():
        path = base.folder / CARD
    try:
        return (metadata_load(path) if path else None) or {}
    except (OSError, ValueError, yaml.YAMLError):  # somebody else's page
        return {}


def _hub_licence(licence: str) -> dict[str, str]:
    """The hub's name of a licence: its own word for the common ones, `other` with a name for the rest."""
    word = licence.lower()
    if word in ("apache-2.0", "mit"):
        return {"license": word}
    if llama := re.fullmatch(r"llama (\d[\d.]*) community", word):
        return {"license": f"llama{llama[1]}"}
    return {"license": "other", "license_name": word.replace(" ", "-")}
