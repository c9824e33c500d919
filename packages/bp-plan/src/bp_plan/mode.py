"""Mode auto: the best mode that fits into the free memory of a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bp_core.choices import AUTO_MODES, PLAIN_MODE, QUANTIZED, Mode
from bp_core.config import TrainConfig
from bp_core.errors import BadValue

from .memory import GIB
from .micro_batch import StepPlan
from .rows import DeviceInfo

_BITS = {"qlora": "4 bits", "lora-8bit": "8 bits"}


@dataclass(frozen=True)
class ModeCandidates:
    """The modes that auto may take, the best first, and why each of the others may not be taken."""

    modes: tuple[Mode, ...]
    excluded: Mapping[Mode, str]


def candidates(config: TrainConfig, device: DeviceInfo) -> ModeCandidates:
    """Off a card mode auto is the plain one, as ever. On a card it must go with the other settings and packages.

    Raises BadValue where no mode goes with them.
    """
    if device.backend != "cuda":
        return ModeCandidates((PLAIN_MODE,), {})
    modes: list[Mode] = []
    excluded: dict[Mode, str] = {}
    clash: BadValue | None = None
    for mode in AUTO_MODES:
        try:
            replace(config, mode=mode)
        except BadValue as error:
            clash, excluded[mode] = error, "does not go with the other settings"
            continue
        if mode in device.lacks:
            excluded[mode] = device.lacks[mode]
        else:
            modes.append(mode)
    if not modes and clash:
        raise clash
    return ModeCandidates(tuple(modes) or (PLAIN_MODE,), excluded)


def mode_reason(tried: Sequence[StepPlan], choice: ModeCandidates, device: DeviceInfo, dtype: str) -> str:
    """Why mode auto is the mode of the last step that was tried. `dtype`: that of weights that are not quantised."""
    step, first = tried[-1], tried[0]
    if device.backend != "cuda":
        return f"auto: lora, on backend {device.backend} the default"
    if step.estimate is None or step.free is None:
        return "auto: how much memory is needed is not known, so the default"
    free, need = f"{step.free / GIB:.1f} GiB", _gib(step)
    if step.setup.mode not in QUANTIZED:
        weights = f"auto: {dtype} weights"
        if step.fits:
            again = ", with layers computed again" if step.activation_checkpointing else ""
            return f"{weights} need {need} of {free}{again}"
        others = "; ".join(f"{mode} {text}" for mode, text in choice.excluded.items())
        return f"{weights} would need {need} of {free}{f', and {others}' if others else ''}"
    bits = _BITS[step.setup.mode]
    if len(tried) == 1:
        return f"auto: {bits} need {need} of {free}; lora {choice.excluded.get('lora', 'was not tried')}"
    less = "need" if step.fits else "would need"
    return f"auto: {dtype} weights would need {_gib(first)} of {free}, {bits} {less} {need}"


def _gib(step: StepPlan) -> str:
    assert step.estimate
    return f"{step.estimate.total / GIB:.1f}"
