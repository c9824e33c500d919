"""The device that MLX computes on."""

from __future__ import annotations

import platform
import time

import mlx.core as mx

_TOKENS, _WIDTH = 32, 512  # of the product that is timed


def on_metal() -> bool:
    """Whether MLX computes on an Apple GPU."""
    return bool(mx.metal.is_available())


def on_gpu() -> bool:
    """Whether MLX computes on a GPU of any kind."""
    return bool(mx.default_device() == mx.Device(mx.gpu))


def name() -> str:
    """The device's name, for the user."""
    if on_gpu():
        return str(mx.device_info()["device_name"])
    return f"the CPU build of MLX on {platform.machine()}"


def slowdown() -> float:
    """How many times longer a product takes in bfloat16, for which MLX has no instructions here, than in float32."""
    return _seconds(mx.bfloat16) / _seconds(mx.float32)


def _seconds(dtype: mx.Dtype) -> float:
    """The shortest of a few rounds; the first one also sets things up."""
    inputs, weight = mx.ones((_TOKENS, _WIDTH), dtype), mx.ones((_WIDTH, _WIDTH), dtype)
    mx.eval(inputs, weight)
    rounds = []
    for _ in range(3):
        began = time.perf_counter()
        mx.eval(inputs @ weight)
        rounds.append(time.perf_counter() - began)
    return min(rounds)


def working_set() -> int:
    """The most bytes that Metal recommends to use; 0 on other devices."""
    return int(mx.device_info()["max_recommended_working_set_size"]) if on_metal() else 0


def keep_within(limit: int) -> None:
    """Let Metal fail allocations beyond `limit` bytes instead of killing the process, and keep weights wired."""
    if on_metal():
        mx.set_memory_limit(limit)
        mx.set_wired_limit(limit)
