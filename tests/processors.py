"""Lesser processors than this one: what the libraries are told so that they leave newer instructions alone.

    uv run python tests/processors.py [OPTIONS]

runs `backprop quickstart OPTIONS` as this processor is, as one with AVX2, and as one with neither (torch's "default"),
into folders of its own, and prints how long each took. llama.cpp cannot be asked so: its wheels have one build, which
needs AVX2, FMA, F16C and BMI2 and uses nothing newer.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

try:
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
except ImportError:  # numpy 1
    from numpy.core._multiarray_umath import __cpu_dispatch__, __cpu_features__

ROOT = Path(__file__).parents[1]
# What torch's own kernels, oneDNN, MKL and numpy's OpenBLAS each call the level.
_LEVELS = {
    "avx2": ("avx2", "AVX2", "AVX2", "Haswell"),
    "default": ("default", "SSE41", "SSE4_2", "Nehalem"),
}
_VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_CORETYPE")
_NUMPY = "NPY_DISABLE_CPU_FEATURES"
SETTINGS = ("native", *_LEVELS) if platform.machine().lower() in ("x86_64", "amd64") else ("native",)


def environment(setting: str) -> dict[str, str]:
    """The environment of a process that computes as on such a processor."""
    found = {name: value for name, value in os.environ.items() if name not in (*_VARIABLES, _NUMPY)}
    if setting == "native":
        return found
    return found | dict(zip(_VARIABLES, _LEVELS[setting], strict=True)) | {_NUMPY: " ".join(_left_out(setting))}


def _left_out(setting: str) -> list[str]:
    """Those of numpy's kernels that this processor would run and the lesser one would not."""
    newer = [name for name in __cpu_dispatch__ if name.startswith("AVX512") or name == "X86_V4"]
    already = os.environ.get(_NUMPY, "").split()
    left_out = newer if setting == "avx2" else __cpu_dispatch__
    return [name for name in left_out if __cpu_features__[name] or name in already]


def backprop(words: Sequence[str], setting: str, home: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, from the project's folder, with records of its own in `home`."""
    variables = environment(setting) | {"BACKPROPAGATE_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "backpropagate", *words]
    return subprocess.run(command, env=variables, cwd=ROOT, text=True, check=False, **options)


def main() -> None:
    failed = []
    for setting in SETTINGS:
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            print(f"quickstart on {platform.machine()}, {setting}:", flush=True)
            words = ["quickstart", "--output", str(Path(folder, "output")), *sys.argv[1:]]
            ended = backprop(words, setting, Path(folder, "home"))
            print(f"quickstart, {setting}: exit {ended.returncode}, {time.monotonic() - began:.0f} s", flush=True)
            failed += [setting] if ended.returncode else []
    if failed:
        sys.exit(f"quickstart failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
