"""Rearrange weights where llama.cpp's layout differs from Hugging Face's. Names are Hugging Face's."""

from __future__ import annotations

import numpy as np

from .rope import Config


def interleaved(name: str, values: np.ndarray, config: Config) -> np.ndarray:
    """Interleave the two halves of each q and k head: llama.cpp rotates neighbouring rows, Hugging Face halves."""
    heads = rotated_heads(name, config)
    return interleave(values, heads) if heads else values


def rotated_heads(name: str, config: Config) -> int | None:
    """Number of heads of a q or k projection; None for any other tensor."""
    if ".q_proj." in name:
        return int(config["num_attention_heads"])
    if ".k_proj." in name:
        return int(config.get("num_key_value_heads") or config["num_attention_heads"])
    return None


def shifted_norms(name: str, values: np.ndarray, config: Config) -> np.ndarray:
    """Gemma multiplies norms by 1 + weight, llama.cpp by the weight."""
    return values.astype(np.float32) + 1 if name.endswith("norm.weight") else values


def hybrid(name: str, values: np.ndarray, config: Config) -> np.ndarray:
    """Qwen 3.5: shifted norms, decay as -exp(A_log), and reordered value heads of linear attention.

    Hugging Face stores the value heads of one key head side by side; llama.cpp repeats the whole row of key heads.
    """
    if ".linear_attn." not in name:
        return shifted_norms(name, values, config)
    values = _tiled(name.split(".linear_attn.")[1], values, config)
    return -np.exp(values.astype(np.float32)) if name.endswith(".A_log") else values


def _tiled(part: str, values: np.ndarray, config: Config) -> np.ndarray:
    size = config["linear_value_head_dim"]
    keys = 2 * config["linear_key_head_dim"] * config["linear_num_key_heads"]
    if part.startswith("conv1d"):
        values = values.reshape(values.shape[0], -1)
    if part.startswith(("in_proj_qkv.", "conv1d.")):  # q and k lie before v
        return np.concatenate([values[:keys], _heads_tiled(values[keys:], size, config)])
    if part.startswith("in_proj_z."):
        return _heads_tiled(values, size, config)
    if part.startswith("out_proj."):
        return _heads_tiled(values.T, size, config).T
    return values if part.startswith("norm.") else _heads_tiled(values, 1, config)


def _heads_tiled(rows: np.ndarray, size: int, config: Config) -> np.ndarray:
    groups, heads = config["linear_num_key_heads"], config["linear_num_value_heads"]
    parts = rows.reshape(groups, heads // groups, size, *rows.shape[1:])
    return parts.swapaxes(0, 1).reshape(rows.shape)


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k, [heads × head size, …], from Hugging Face's order to llama.cpp's."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)
