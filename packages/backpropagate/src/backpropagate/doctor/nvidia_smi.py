"""What NVIDIA's driver says of the cards, by its program nvidia-smi: it needs neither torch nor NVML's bindings."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_IN_WSL = Path("/usr/lib/wsl/lib/nvidia-smi")  # which is not on the PATH there
_SECONDS = 20.0
_CARD_FIELDS = ("name", "driver_version", "memory.total", "memory.used")
# Which older drivers do not know. Asked for one by one, because one unknown field fails the whole question.
_MORE_FIELDS = (
    "compute_cap",
    "display_active",
    "temperature.gpu",
    "power.draw",
    "power.limit",
    "clocks_throttle_reasons.hw_thermal_slowdown",
    "clocks_throttle_reasons.sw_thermal_slowdown",
)
_CUDA = re.compile(r"CUDA Version:\s*(\d+)\.(\d+)")
_MIB = 2**20


@dataclass(frozen=True)
class CardReading:
    """One card. Memory in bytes, temperature in °C, power in watts; None where the driver does not say."""

    name: str
    driver: str
    memory: int
    used: int
    capability: tuple[int, int] | None
    shows_screen: bool
    temperature: float | None
    power: float | None
    power_limit: float | None
    too_hot: bool


@dataclass(frozen=True)
class CardProcess:
    """Another program that computes on a card; bytes, None where the driver does not say (as on Windows)."""

    pid: int
    name: str
    memory: int | None


@dataclass(frozen=True)
class NvidiaDriver:
    """The driver, its cards and what runs on them. `cuda`: the newest CUDA version that it can run, None if unknown."""

    cards: tuple[CardReading, ...]
    processes: tuple[CardProcess, ...]
    cuda: tuple[int, int] | None


def program() -> str | None:
    """Where nvidia-smi is; None without NVIDIA's driver."""
    found = shutil.which("nvidia-smi")
    if found is None and _IN_WSL.is_file():
        return str(_IN_WSL)
    return found


def card_names() -> list[str]:
    """The names of the cards, by the quickest question; none without a driver or card."""
    return [row[0] for row in _table("--query-gpu=name")]


def read_driver() -> NvidiaDriver | None:
    """Everything that the driver says; None without a driver, or where it does not answer."""
    rows = _table(f"--query-gpu={','.join(_CARD_FIELDS)}")
    if not rows:
        return None
    more = {name: _table(f"--query-gpu={name}") for name in _MORE_FIELDS}
    cards = []
    for number, row in enumerate(rows):
        others = {name: column[number][0] if number < len(column) else "" for name, column in more.items()}
        cards.append(_card(row, others))
    processes = [_process(row) for row in _table("--query-compute-apps=pid,process_name,used_memory")]
    return NvidiaDriver(tuple(cards), tuple(processes), _cuda_version())


def _card(row: list[str], more: dict[str, str]) -> CardReading:
    name, driver, total, used = row
    major, _, minor = more["compute_cap"].partition(".")
    slowdowns = [text for field, text in more.items() if field.endswith("slowdown")]
    return CardReading(
        name=name,
        driver=driver,
        memory=int((_number(total) or 0) * _MIB),
        used=int((_number(used) or 0) * _MIB),
        capability=(int(major), int(minor)) if major.isdigit() and minor.isdigit() else None,
        shows_screen=more["display_active"] == "Enabled",
        temperature=_number(more["temperature.gpu"]),
        power=_number(more["power.draw"]),
        power_limit=_number(more["power.limit"]),
        too_hot="Active" in slowdowns,
    )


def _process(row: list[str]) -> CardProcess:
    pid, name, memory = row
    size = _number(memory)
    return CardProcess(int(pid), name, None if size is None else int(size * _MIB))


def _cuda_version() -> tuple[int, int] | None:
    found = _CUDA.search(_said())
    return (int(found[1]), int(found[2])) if found else None


def _table(question: str) -> list[list[str]]:
    """The rows of an answer, each with as many values as were asked for; none where the question fails."""
    columns = question.count(",") + 1
    rows = []
    for line in _said(question, "--format=csv,noheader,nounits").splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) == columns:
            rows.append(values)
    return rows


def _said(*words: str) -> str:
    """What nvidia-smi prints; "" where it is missing, fails, or does not end."""
    path = program()
    if path is None:
        return ""
    try:
        done = subprocess.run([path, *words], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _number(text: str) -> float | None:
    """A number; None for "[N/A]" and the like."""
    try:
        return float(text)
    except ValueError:
        return None
