"""The words of fine-tuning that a newcomer meets in output, reports and docs, each in a sentence or two."""

from __future__ import annotations

import re
from collections.abc import Mapping

GLOSSARY: Mapping[str, str] = {
    "adapter": "Few weights, trained beside a frozen model, that change what it answers; here by LoRA.",
    "backend": "What computes: PyTorch on a graphics card (cuda) or on the processor (cpu), or MLX on a Mac (mlx).",
    "base": "The model that training starts from, as it was downloaded.",
    "batch size": "How many examples an optimizer step learns from. More make a step steadier, and steps fewer.",
    "chat template": "The rule by which a model's makers write a conversation as one text, with marks for who speaks.",
    "checkpoint": "All that is needed to go on with a run after it was stopped: weights, optimizer, place in the data.",
    "end of turn": "The token that ends an answer. A model that never sees it in training does not know when to stop.",
    "epoch": "One pass over the data.",
    "evaluation": "The loss, and perhaps answers, on rows that were not trained on.",
    "export": "What was trained as one file that other programs run, such as a GGUF for llama.cpp and Ollama.",
    "GGUF": "The file format of llama.cpp and Ollama: a whole model in one file.",
    "gradient norm": "How strongly a step wants to change the weights. Jumps mean that the learning rate is too high.",
    "held out": "Rows kept out of training, so that there is something to evaluate on.",
    "hub": "The Hugging Face Hub, where models and data sets are published; a hub id is written owner/name.",
    "interval": "The range in which a number lies with 95 % certainty, given how many rows it was measured on.",
    "learning rate": "How far a step moves the weights. Too high undoes the model; too low learns nothing.",
    "LoRA": "Low-rank adaptation: training small factors beside each weight matrix in place of the matrix itself.",
    "loss": "How surprised the model is by the right answer, per trained token; lower is better.",
    "micro-batch": "How many examples are computed at once. Fewer need less memory; what is learned is the same.",
    "optimizer step": "One change of the weights, learned from one batch.",
    "packing": "Letting short examples share a row, so that less is computed for nothing.",
    "patience": "How many evaluations in a row may bring nothing better before training stops.",
    "perplexity": "The loss as a number of equally likely choices a token: e to the power of the loss.",
    "preset": "A short name for a model that is known to work, such as smollm2-135m.",
    "proof": "The comparison of an exported file with the model that was trained: tokens, answers, loss.",
    "published": "In its place in the output folder (lora or model), from where it is exported, shared and asked.",
    "quantization": "Storing weights in fewer bits: smaller and faster, a little less exact.",
    "rank": "The size of a LoRA adapter: higher learns more, and needs more memory.",
    "recipe": "Every value that decides a run, with the reason for each that was computed.",
    "run": "One training, with its folder, its records and its id.",
    "stage": "One of several trainings whose adapters are merged into one.",
    "token": "A piece of text that a model reads and writes: a word, a part of one, or a sign.",
    "trained token": "A token that the model learns to write: of the answers and their ends, not of the questions.",
}  # fmt: skip


def terms_in(text: str) -> list[str]:
    """The terms that a text uses, in the order of the glossary; a plural is a use."""
    return [term for term in GLOSSARY if re.search(rf"\b{re.escape(term)}s?\b", text, re.IGNORECASE)]
