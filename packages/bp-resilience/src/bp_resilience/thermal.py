"""Pausing while the graphics card is too hot."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

from bp_core.events import Warned

from .clock import Pause

Sensor = Callable[[], float | None]  # °C; None when it cannot be read

_HYSTERESIS = 8.0  # °C below the limit at which training continues
_SECONDS_BETWEEN_READINGS = 5.0


class ThermalPause:
    """Above `limit` °C pause for at least `cooldown` seconds, until the card is 8 °C below the limit."""

    def __init__(self, sensor: Sensor | None, limit: float, cooldown: float) -> None:
        self._sensor = sensor
        self._limit, self._cooldown = limit, cooldown
        self._read_at = -_SECONDS_BETWEEN_READINGS
        self.reading: float | None = None  # the last one, in °C

    def between_steps(self, step: int, pause: Pause) -> None:
        """Pause if the card is too hot. A sensor that fails is reported once and not read again."""
        now = pause.clock.now()
        if self._sensor is None or now - self._read_at < _SECONDS_BETWEEN_READINGS:
            return
        self._read_at = now
        temperature = self._temperature(step, pause)
        if temperature is not None and temperature > self._limit:
            reason = f"the card has {temperature:.0f} °C, allowed are {self._limit:.0f}"
            pause.until(lambda waited: self._cool(waited, step, pause), step, reason, _SECONDS_BETWEEN_READINGS)

    def _cool(self, waited: float, step: int, pause: Pause) -> bool:
        if waited < self._cooldown:
            return False
        temperature = self._temperature(step, pause)
        return temperature is None or temperature <= self._limit - _HYSTERESIS

    def _temperature(self, step: int, pause: Pause) -> float | None:
        self.reading = self._sensor() if self._sensor else None
        if self.reading is None and self._sensor:
            self._sensor = None
            pause.watch(Warned(step, "the card's temperature cannot be read; training goes on without looking at it."))
        return self.reading


def nvml(card: str) -> Sensor:
    """The sensor of the NVIDIA card with that UUID. It reads None without NVML, driver or card."""
    library = importlib.import_module("pynvml") if importlib.util.find_spec("pynvml") else None

    def read() -> float | None:
        if library is None:
            return None
        try:
            library.nvmlInit()
            handle = library.nvmlDeviceGetHandleByUUID(card.encode())
            return float(library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU))
        except library.NVMLError:
            return None

    return read
