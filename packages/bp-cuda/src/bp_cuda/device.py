"""The device that the rail computes on: the host's processor, or one NVIDIA card."""

from __future__ import annotations

import importlib
import importlib.util

import psutil
import torch

from bp_core import processor as host_processor
from bp_core.choices import DType
from bp_core.process_group import launch_env
from bp_core.rail import Memory, Probe

from . import host_memory, memory_saving
from .model import number_formats
from .requirements import Capability


def probe(device: torch.device) -> Probe:
    """Whether `device` can be used, and what it has."""
    if device.type == "cpu":
        return _probe_host(device)
    if not torch.cuda.is_available():
        reason = "no NVIDIA driver or card was found" if torch.version.cuda else "this torch was built without CUDA"
        return Probe(False, "cuda", reason, toolkit=torch.version.cuda or "")
    number, cards = device.index or 0, torch.cuda.device_count()
    if number >= cards:
        return Probe(False, "cuda", f"process {number} of this machine has no card; there are {cards}")
    free, total = torch.cuda.mem_get_info(device)
    name, screen, toolkit = torch.cuda.get_device_name(device), _shows_screen(card(device)), torch.version.cuda
    return Probe(True, name, "", total, free, _fast_format(device), shows_screen=screen, toolkit=toolkit or "")


def card(device: torch.device) -> str:
    """The card's UUID in NVML's form; "" without a card."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else ""


def capability(device: torch.device) -> Capability | None:
    """The card's compute capability; None without a card."""
    has_card = device.type == "cuda" and torch.cuda.is_available()
    return torch.cuda.get_device_capability(device) if has_card else None


def memory(device: torch.device) -> Memory:
    """Bytes in use, their peak, and the total."""
    if device.type == "cpu":
        return host_memory.memory()
    used, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    free, total = torch.cuda.mem_get_info()
    return Memory(used, peak, total, free if memory_saving.SPILLS else None)


def give_back(device: torch.device) -> None:
    """Return freed memory to the system."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        host_memory.give_back()


def _probe_host(device: torch.device) -> Probe:
    host = psutil.virtual_memory()
    free = host.available // launch_env().local_size  # shared by the processes that a launcher started here
    kernels = torch.backends.cpu.get_cpu_capability().lower()
    return Probe(True, "cpu", "", host.total, free, _fast_format(device), host_processor.name(), kernels)


def _fast_format(device: torch.device) -> DType:
    """The number format that products are computed in with dtype auto."""
    _, computed = number_formats("auto", device, full=False)
    return "bfloat16" if computed == torch.bfloat16 else "float32"


def _shows_screen(card: str) -> bool:
    """Whether the card with that NVML UUID has an active display; False where nothing tells: without nvidia-ml-py."""
    if importlib.util.find_spec("pynvml") is None:
        return False
    library = importlib.import_module("pynvml")
    try:
        library.nvmlInit()
        handle = library.nvmlDeviceGetHandleByUUID(card.encode())
        return bool(library.nvmlDeviceGetDisplayActive(handle))
    except library.NVMLError:
        return False
