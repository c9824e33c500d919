"""The whole examination, in the order in which a person would go about it."""

from __future__ import annotations

from collections.abc import Iterator

from bp_core.backends import choose_rail
from bp_core.errors import BackendUnavailable

from . import card, surroundings
from .finding import Examination, Finding
from .nvidia_smi import read_driver


def examine() -> Examination:
    """Look at card, torch, kernels, disks, token, Ollama and llama.cpp. Trains and downloads nothing."""
    device = "nothing: no backend can run here"
    missing: list[Finding] = []
    try:
        name, _, probe = choose_rail("auto")
        device = probe.device if name == "cpu" else f"{probe.device} ({name})"
    except BackendUnavailable as error:
        missing.append(Finding("backend", "problem", error.message, 'uv pip install "backpropagate[cuda]"'))
    return Examination((*missing, *_findings()), device)


def _findings() -> Iterator[Finding]:
    driver, probe = read_driver(), card.cuda_probe()
    yield from card.findings(driver, probe)
    yield from surroundings.kernels(bool(probe and probe.available))
    yield from surroundings.disks(surroundings.default_output())
    yield surroundings.hub_token()
    yield surroundings.ollama()
    yield surroundings.llama_cpp()
