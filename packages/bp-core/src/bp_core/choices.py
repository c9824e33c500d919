"""The names that settings of training choose from, and what follows from a name."""

from __future__ import annotations

from typing import Literal

DType = Literal["auto", "float32", "bfloat16"]
Mode = Literal["lora", "qlora", "lora-8bit", "full"]
ModeSetting = Literal["auto", Mode]
Attention = Literal["auto", "sdpa", "eager", "flash-attention-2"]
Optimizer = Literal["adamw", "adamw-8bit", "paged-adamw-8bit", "host-adamw-8bit"]
Init = Literal["default", "orthogonal", "pissa", "pissa_niter_16", "olora", "loftq"]
TextUnit = Literal["document", "paragraph", "line"]
TrainOn = Literal["assistant", "last", "all"]
Method = Literal["sft", "orpo", "simpo", "kto"]
LoraPreset = Literal["fast", "balanced", "quality"]
ToolsTemplate = Literal["none", "hermes"]
ToolSchema = Literal["served", "as-is"]

AUTO_MODES: tuple[Mode, ...] = ("lora", "qlora")  # what mode auto takes the first of that fits
PLAIN_MODE: Mode = AUTO_MODES[0]  # that of an adapter from elsewhere, and of auto where memory is not known
RANK = 16
PAIRED: tuple[Method, ...] = ("orpo", "simpo")  # methods that compare two answers
LORA_RANKS: dict[LoraPreset, int] = {"fast": RANK, "balanced": 32, "quality": 256}
STARTS_IN_BASE: tuple[Init, ...] = ("pissa", "pissa_niter_16", "olora", "loftq")
# Moments of mode full: in memory that card and host share, or on the host always.
PAGED: Optimizer = "paged-adamw-8bit"
ON_HOST: Optimizer = "host-adamw-8bit"
QUANTIZED: dict[Mode, str] = {"qlora": "nf4", "lora-8bit": "int8"}  # modes, and what they keep the base in
