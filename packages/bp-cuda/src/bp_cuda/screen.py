"""Whether a desktop is on a card, by NVML, where nvidia-ml-py is installed."""

from __future__ import annotations

import importlib
import importlib.util


def shows_screen(card: str) -> bool:
    """Whether the card with that NVML UUID has an active display; False where nothing tells."""
    if importlib.util.find_spec("pynvml") is None:
        return False
    library = importlib.import_module("pynvml")
    try:
        library.nvmlInit()
        handle = library.nvmlDeviceGetHandleByUUID(card.encode())
        return bool(library.nvmlDeviceGetDisplayActive(handle))
    except library.NVMLError:
        return False
