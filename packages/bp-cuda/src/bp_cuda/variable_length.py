"""Attention over all examples of a row in one call, by torch's kernel for sequences of several lengths. Cards only."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from . import attention

# torch 2.11 takes fewer heads of keys without being told, and refuses windows where it chooses cuDNN.
_IS_TOLD = "enable_gqa" in signature(varlen_attn).parameters
_FEWER_KEYS: dict[str, Any] = {"enable_gqa": True} if _IS_TOLD else {}


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, **options: Any
) -> tuple[Tensor, None]:
    """Like `attention.attend`, which computes what this kernel does not: softcap, dropout, float32, one segment alone.

    `cu_seq_lens_k`: the starts of the segments and the end of the last, int32 on the device; `max_length_k`: the
    tokens of the longest.
    """
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    ends, longest, window = options.get("cu_seq_lens_k"), options.get("max_length_k"), options.get("sliding_window")
    other = options.get("softcap") is not None or options.get("dropout") or dtype == torch.float32
    if ends is None or longest is None or other:
        return attention.attend(module, query, key, value, attention_mask, **options)
    seen = (-1, 0)
    if window is not None and window < longest:
        if not _IS_TOLD:
            return attention.attend(module, query, key, value, attention_mask, **options)
        seen = (window - 1, 0)
    q, k, v = (tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value))  # [n, heads, dim]
    scale = options.get("scaling")
    attended: Any = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scale, window_size=seen, **_FEWER_KEYS)
    return attended[None], None
