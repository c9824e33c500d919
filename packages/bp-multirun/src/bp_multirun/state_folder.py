"""The state between stages on disk: one file, whose size does not depend on the number of stages."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bp_core.errors import CheckpointUnusable, MergeRefused
from bp_core.tensor_file import TensorFileBroken

from .factors import Pair, check, check_alike
from .slao import State, deploy
from .tensor_file import TensorFile, read, write

STATE = "state.safetensors"
_PARTS = ("A", "B_finetuned", "B_merged")


def save(state: State, folder: Path) -> None:
    """Write `state` into an existing folder; equal states give equal bytes."""
    arrays: dict[str, np.ndarray] = {}
    for part, layers in zip(_PARTS, (state.a, state.b_finetuned, state.b_merged), strict=True):
        arrays |= {f"{part}.{name}": array for name, array in layers.items()}
    write(folder / STATE, arrays, "F32", {"format": "slao-1", "index": f"{state.index:08d}"})


def load(folder: Path) -> State:
    """Read the state in a folder; its arrays are views into the file. Raises CheckpointUnusable."""
    path = folder / STATE
    try:
        file = read(path)
    except TensorFileBroken as error:
        raise CheckpointUnusable(f"{error}.", where=str(path)) from error
    if file.metadata.get("format") != "slao-1" or not file.metadata.get("index", "").isdigit():
        raise CheckpointUnusable("it is no state of merged stages that this version reads.", where=str(path))
    return _state(file, path)


def _state(file: TensorFile, path: Path) -> State:
    parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in _PARTS}
    for key, array in file.arrays.items():
        part, _, name = key.partition(".")
        if part not in parts or file.dtypes[key] != "F32":
            raise CheckpointUnusable(f"{key} is no part of a state.", where=str(path))
        parts[part][name] = array
    state = State(int(file.metadata["index"]), *parts.values())
    try:
        trained = {name: Pair(state.a[name], b) for name, b in state.b_finetuned.items()}
        check(trained)
        check_alike(deploy(state), trained)
    except (MergeRefused, KeyError) as error:
        raise CheckpointUnusable(f"the parts of the state do not fit together ({error}).", where=str(path)) from error
    return state
