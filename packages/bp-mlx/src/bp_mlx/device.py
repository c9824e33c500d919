"""The device that MLX computes on."""

from __future__ import annotations

import platform

import mlx.core as mx
import psutil

from bp_core.rail import Memory


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


def working_set() -> int:
    """The most bytes that Metal recommends to use; 0 on other devices."""
    return int(mx.device_info()["max_recommended_working_set_size"]) if on_metal() else 0


def keep_within(limit: int) -> None:
    """Let Metal fail allocations beyond `limit` bytes instead of killing the process, and keep weights wired."""
    if on_metal():
        mx.set_memory_limit(limit)
        mx.set_wired_limit(limit)


def memory(limit: int, peak: int) -> Memory:
    """Bytes of MLX's arrays, now and at most; `peak` is the highest before MLX's counter was last reset."""
    total = limit or psutil.virtual_memory().total
    return Memory(mx.get_active_memory(), max(peak, mx.get_peak_memory()), total)
