"""Settings that this machine or its packages cannot run, found before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from bp_core.choices import ON_HOST, PAGED, QUANTIZED
from bp_core.config import FLASH_CARD, FP8_CARD, TrainConfig
from bp_core.errors import BadValue, PackageMissing

Capability = tuple[int, int]
FLASH = "attention flash-attention-2"
# By import name: the package's name, and how to install it.
_PACKAGES = {
    "bitsandbytes": ("bitsandbytes", 'pip install "bp-cuda[quant]"'),
    "torchao": ("torchao", 'pip install "bp-cuda[fp8]"'),
    "liger_kernel": ("liger-kernel", 'pip install "bp-cuda[liger]"'),
    "unsloth": ("unsloth", 'pip install "backpropagate[standard]", in an environment of its own'),
    "flash_attn": ("flash-attn", "pip install flash-attn --no-build-isolation"),
}


def check(settings: TrainConfig, device: str, capability: Capability | None = None) -> None:
    """Raise BadValue with everything that `device` (cpu or cuda; `capability` of its card) lacks, or PackageMissing."""
    if problems := list(_impossible(settings, device, capability)):
        raise BadValue("; ".join(problems) + ".")
    for setting, package, other in _packages(settings):
        require(setting, package, other)


def require(setting: str, package: str, other: str) -> None:
    """Raise PackageMissing if `setting` needs a `package` that is not installed; `other` is the way without."""
    if find_spec(package) is None:
        name = _PACKAGES[package][0]
        raise PackageMissing(f"{setting} needs {name}.", fix=f"Install it: {install(package)}; or use {other}.")


def install(package: str) -> str:
    """How to install a package, by its import name."""
    return _PACKAGES[package][1]


def _impossible(settings: TrainConfig, device: str, capability: Capability | None) -> Iterator[str]:
    if settings.optimizer in (PAGED, ON_HOST) and device == "cpu":
        yield f"optimizer {settings.optimizer} keeps moments on the host for a card, and there is none: use adamw-8bit"
    if settings.fp8 and (found := _too_old(FP8_CARD, capability)):
        yield f"fp8 needs {found}: leave fp8 out"
    for name in ("liger", "unsloth"):
        if getattr(settings, name) and device != "cuda":
            yield f"{name} has kernels for NVIDIA cards only: leave {name} out"
    if settings.attention == "flash-attention-2" and (found := _too_old(FLASH_CARD, capability)):
        yield f"{FLASH} needs {found}: use attention auto"


def _too_old(least: Capability, capability: Capability | None) -> str:
    """The needed and the present compute capability in words; "" if it is enough."""
    if capability and capability >= least:
        return ""
    present = "this one has {}.{}".format(*capability) if capability else "there is none"
    return "a card of compute capability {}.{} or more".format(*least) + f", and {present}"


def _packages(settings: TrainConfig) -> Iterator[tuple[str, str, str]]:
    """(setting, package that it needs, setting that works without) for what is set."""
    if settings.mode in QUANTIZED:
        yield f"mode {settings.mode}", "bitsandbytes", "--mode lora"
    if settings.fp8:
        yield "fp8", "torchao", "no --fp8"
    if settings.liger:
        yield "liger", "liger_kernel", "no --liger"
    if settings.unsloth:
        yield "unsloth", "unsloth", "no --unsloth"
    if settings.attention == "flash-attention-2":
        yield FLASH, "flash_attn", "--attention auto"
    if settings.optimizer not in (None, "adamw"):
        yield f"optimizer {settings.optimizer}", "bitsandbytes", "--optimizer adamw"
