"""How somebody else runs what was uploaded: with transformers, llama.cpp and Ollama."""

from __future__ import annotations

from ..reports.document import Block, Code, Heading
from .files import Parcel

_LOADERS = {"adapter": ("peft", "AutoPeftModelForCausalLM"), "model": ("transformers", "AutoModelForCausalLM")}
_TRANSFORMERS = """\
{imports}

model = {loader}.from_pretrained("{repo}")
tokenizer = AutoTokenizer.from_pretrained("{repo}")
messages = [{{"role": "user", "content": "Hello!"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs, max_new_tokens=200)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))"""


def how_to_run(parcel: Parcel, repo: str) -> list[Block]:
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
    imports = (
        f"from transformers import {loader}, AutoTokenizer"
        if package == "transformers"
        else f"from {package} import {loader}\nfrom transformers import AutoTokenizer"
    )
    label = f"With transformers{' and peft' if package == 'peft' else ''}:"
    return Code(label, _TRANSFORMERS.format(imports=imports, loader=loader, repo=repo), "python")
