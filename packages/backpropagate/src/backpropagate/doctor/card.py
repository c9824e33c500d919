"""Findings about the graphics card: its driver, the torch that is to use it, what it can do, how it is."""

from __future__ import annotations

import os
from collections.abc import Iterator

from bp_core.backends import find, rails
from bp_core.config import BFLOAT16_CARD, FLASH_CARD, FP8_CARD
from bp_core.rail import Probe
from bp_core.units import gigabytes

from .finding import Finding
from .nvidia_smi import CardReading, NvidiaDriver, card_names, program

_OTHER_TORCH = "uv pip install --reinstall torch --torch-backend auto"
_HOT = 85.0  # °C: above it most cards slow down


def cuda_probe() -> Probe | None:
    """What the PyTorch rail says of the card; None where it is not installed."""
    return find("cuda").probe() if "cuda" in rails() else None


def idle_card(probe: Probe | None) -> str | None:
    """What to tell where training is on the processor although there is an NVIDIA card. `probe`: of backend cuda."""
    names = [] if probe is None or probe.available else card_names()
    if probe is None or not names:
        return None
    if not probe.toolkit:
        return f"{_unused(names[0])} Install the other one: {_OTHER_TORCH}"
    return f"there is an NVIDIA card ({names[0]}), but torch does not see it; `backprop doctor` says why."


def findings(driver: NvidiaDriver | None, probe: Probe | None) -> Iterator[Finding]:
    """Of the driver, torch, every card, and what else runs there."""
    if driver is None and program():
        yield Finding("card", "problem", "nvidia-smi is here, but does not reach the driver or a card.", "nvidia-smi")
        return
    if driver is None:
        yield Finding("card", "note", "no NVIDIA driver, or no card that it knows, was found.")
        return
    for card in driver.cards:
        yield _card(card)
    yield _torch(driver, probe)
    for card in driver.cards:
        yield _heat(card)
    yield from _processes(driver)


def _card(card: CardReading) -> Finding:
    known = "" if card.capability is None else ", compute capability {}.{}".format(*card.capability)
    screen = ", shows a screen" if card.shows_screen else ""
    free = gigabytes(card.memory - card.used)
    return Finding(
        "card",
        "ok",
        f"{card.name}, {free} of {gigabytes(card.memory)} free, driver {card.driver}{known}{screen}{_follows(card)}",
    )


def _follows(card: CardReading) -> str:
    """What follows from the compute capability."""
    if card.capability is None:
        return "."
    able = {"bfloat16": BFLOAT16_CARD, "flash-attention": FLASH_CARD, "--fp8": FP8_CARD}
    yes = [name for name, least in able.items() if card.capability >= least]
    no = [name for name, least in able.items() if card.capability < least]
    parts = [f"can do {', '.join(yes)}"] if yes else []
    parts += [f"cannot do {', '.join(no)}"] if no else []
    return f": {'; '.join(parts)}."


def _torch(driver: NvidiaDriver, probe: Probe | None) -> Finding:
    """Whether this torch can use the card."""
    name = driver.cards[0].name
    if probe is None:
        return Finding("torch", "problem", "the PyTorch backend is not installed.", "uv pip install bp-cuda")
    if probe.available:
        return Finding("torch", "ok", f"is built for CUDA {probe.toolkit} and sees the card.")
    if not probe.toolkit:
        return Finding("torch", "problem", _unused(name), _OTHER_TORCH)
    needed = int(probe.toolkit.partition(".")[0])
    if driver.cuda and driver.cuda[0] < needed:
        newest = "{}.{}".format(*driver.cuda)
        message = (
            f"is built for CUDA {probe.toolkit}, and driver {driver.cards[0].driver} runs CUDA up to {newest}: too old."
        )
        return Finding(
            "torch", "problem", f"{message} Install a newer driver, or the torch for this one.", _OTHER_TORCH
        )
    message = f"is built for CUDA {probe.toolkit}, and does not see the card: {probe.reason}."
    return Finding(
        "torch", "problem", f"{message} A restart may be needed after an update of the driver.", "nvidia-smi"
    )


def _unused(name: str) -> str:
    return f"there is an NVIDIA card ({name}), but this torch is built for processors only, so it is not used."


def _heat(card: CardReading) -> Finding:
    """Temperature and power, as they are now."""
    readings = []
    if card.temperature is not None:
        readings.append(f"{card.temperature:.0f} °C")
    if card.power is not None:
        limit = f" of {card.power_limit:.0f}" if card.power_limit is not None else ""
        readings.append(f"{card.power:.0f}{limit} W")
    if not readings:
        return Finding("heat", "note", f"{card.name} tells neither temperature nor power.")
    told = f"{card.name}: {', '.join(readings)}"
    hot = card.temperature is not None and card.temperature >= _HOT
    if card.too_hot or hot:
        slow = " and slows down" if card.too_hot else ""
        return Finding(
            "heat", "problem", f"{told}: it is hot{slow}. Give it air.", "nvidia-smi -q -d TEMPERATURE,PERFORMANCE"
        )
    return Finding("heat", "ok", f"{told}.")


def _processes(driver: NvidiaDriver) -> Iterator[Finding]:
    """Other programs on the card; none of them is a problem while there is room."""
    for process in driver.processes:
        if process.pid != os.getpid():
            holds = "holds some" if process.memory is None else f"holds {gigabytes(process.memory)}"
            message = f"{process.name} (process {process.pid}) computes on the card and {holds} of its memory."
            yield Finding("process", "note", message, "nvidia-smi")
