"""Attention over examples laid end to end in one row, without padding: each example attends only to itself."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

from bp_core import step_sizes
from bp_core.choices import Attention
from bp_core.config import FLASH_CARD

from . import block_attention
from .transfer import to_device

NAME, EAGER, VARIABLE, FLASH = "segments", "segments-eager", "segments-at-once", "flash_attention_2"
# The attn_implementation for each setting: for examples in one row, and for models that need one example at a time.
APART: dict[Attention, str] = {"auto": NAME, "sdpa": NAME, "eager": EAGER, "flash-attention-2": FLASH}
ALONE: dict[Attention, str] = {"sdpa": "sdpa", "eager": "eager", "flash-attention-2": FLASH}


def register() -> None:
    """Register our `attn_implementation`s with transformers; may be called again.

    Without masks, for borders take their place: where one is registered, transformers looks for packed examples in
    each pass, and waits for the card to answer.
    """
    for name, function in ((NAME, attend), (EAGER, _attend_eagerly), (VARIABLE, _attend_at_once)):
        AttentionInterface.register(name, function)


def fastest(device: torch.device, computed: torch.dtype) -> list[str]:
    """The implementations for examples in one row that may be tried before `NAME`, the fastest first.

    torch's kernel for sequences of several lengths and the package flash-attn take all examples in one call, in 16
    bits and on cards only.
    """
    if device.type != "cuda" or computed == torch.float32:
        return []
    may_flash = find_spec("flash_attn") and torch.cuda.get_device_capability(device) >= FLASH_CARD
    return [VARIABLE, *([FLASH] if may_flash else [])]


def borders(implementation: str, lengths: Any, device: torch.device) -> dict[str, Any]:
    """Keyword arguments that give the attention the borders of examples; `lengths` in tokens, int [examples]."""
    ends = [0, *accumulate(int(length) for length in lengths)]
    if implementation == FLASH:
        borders = to_device(np.array(ends, dtype=np.int32), device)
        longest = int(max(lengths))
        return {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": longest, "max_length_k": longest}
    if implementation not in (NAME, EAGER, VARIABLE) or len(lengths) == 1:
        return {}
    told: dict[str, Any] = {"cu_seq_lens_q": ends}
    if implementation == VARIABLE:
        told |= {"cu_seq_lens_k": to_device(np.array(ends, dtype=np.int32), device), "max_length_k": int(max(lengths))}
    return told


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, **options: Any
) -> tuple[Tensor, None]:
    """Causal attention per segment. query [1, heads, n, dim], key and value [1, kv_heads, m, dim] → [1, n, heads, dim].

    `cu_seq_lens_q` lists the starts of the segments and the end of the last one (default: one segment).
    `sliding_window` and `softcap` are applied where a model has them. `eager`: without torch's fused kernels.
    """
    borders = options.get("cu_seq_lens_q") or [0, key.shape[2]]
    in_blocks = [_is_in_blocks(query, key, end - start, options) for start, end in pairwise(borders)]
    if all(in_blocks):
        return _in_blocks(query, key, value, borders, options), None
    return _segments(query, key, value, borders, options), None


_attend_eagerly = partial(attend, eager=True)


def _attend_at_once(*inputs: Any, **options: Any) -> tuple[Tensor, None]:
    """Imported late: the kernel's module is for cards."""
    attended: tuple[Tensor, None] = import_module(".variable_length", __package__).attend(*inputs, **options)
    return attended


def _is_in_blocks(query: Tensor, key: Tensor, length: int, options: dict[str, Any]) -> bool:
    """Whether a segment of `length` tokens is computed faster in blocks: in 16 bits all are."""
    plain = not options.get("eager") and not options.get("dropout") and query.shape[2] == key.shape[2]
    if not plain or query.device.type != "cpu":
        return False
    trained_in_16_bits = query.requires_grad and _computed(query) != torch.float32
    return length <= step_sizes.SHORT_SEGMENT or trained_in_16_bits


def _in_blocks(query: Tensor, key: Tensor, value: Tensor, borders: list[int], options: dict[str, Any]) -> Tensor:
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    scores = block_attention.Scores(scale, options.get("sliding_window"), options.get("softcap"))
    dtype = _computed(query)
    query, key, value = (tensor[0].to(dtype) for tensor in (query, key, value))
    return block_attention.attend(query, key, value, borders, scores)[None]


def _computed(query: Tensor) -> torch.dtype:
    """The format of products with it, here and now."""
    device = query.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype


def _segments(query: Tensor, key: Tensor, value: Tensor, borders: list[int], options: dict[str, Any]) -> Tensor:
    parts = []
    for start, end in pairwise(borders):
        q, k, v = query[:, :, start:end], key[:, :, start:end], value[:, :, start:end]
        if _is_in_blocks(q, k, end - start, options):
            parts.append(_in_blocks(q, k, v, [0, end - start], options).transpose(1, 2))
        else:
            parts.append(_one(q, k, v, options))
    joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return joined.transpose(1, 2).contiguous()


def _one(query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
    """One segment; the query may be only its last tokens (generation with a cache)."""
    window, softcap = options.get("sliding_window"), options.get("softcap")
    dropout, scale = options.get("dropout", 0.0), options.get("scaling")
    n, m = query.shape[2], key.shape[2]
    if softcap is not None or options.get("eager"):
        groups = query.shape[1] // key.shape[1]
        weights = _weights(query, repeat_kv(key, groups), _mask(n, m, window, query.device), scale, softcap)
        values: Tensor = repeat_kv(value, groups)
        return torch.dropout(weights, dropout, dropout > 0) @ values
    arguments = {"dropout_p": dropout, "scale": scale, "enable_gqa": True}
    if n == m and (window is None or m <= window):
        return scaled_dot_product_attention(query, key, value, is_causal=n > 1, **arguments)
    return scaled_dot_product_attention(query, key, value, _mask(n, m, window, query.device), **arguments)


def _mask(n: int, m: int, window: int | None, device: torch.device) -> Tensor:
    """Which of m keys each of the last n queries may see: bool [n, m]."""
    distance = torch.arange(m - n, m, device=device)[:, None] - torch.arange(m, device=device)[None, :]
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)


def _weights(query: Tensor, key: Tensor, mask: Tensor, scale: float | None, softcap: float | None) -> Tensor:
    """Attention weights [1, heads, n, m] of query [1, heads, n, dim] and key [1, heads, m, dim].

    Scores are squashed to ±softcap (Gemma 2, arXiv:2408.00118, section 2).
    """
    scores = query @ key.transpose(2, 3) * (scale or query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return scores.masked_fill(~mask, float("-inf")).float().softmax(-1).to(query.dtype)
