"""Tensors in a file that torch.save wrote, without torch: what such a file may hold besides tensors is refused.

The pickle in it is read by an unpickler that knows tensors and plain containers only, so no code of it is run.
Layout: https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bp_core.errors import AdapterUnusable
from bp_core.tensor_file import TensorFileBroken, refuse_pointer

_STORAGES: dict[str, np.dtype[Any]] = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ByteStorage": np.dtype(np.uint8),
}


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name. Raises AdapterUnusable."""
    try:
        refuse_pointer(path)
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            with archive.open(name) as file:
                values = _Unpickler(file, archive, name.removesuffix("data.pkl")).load()
    except TensorFileBroken as error:
        raise AdapterUnusable(f"{error}.", where=str(path), fix=error.fix) from error
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError, OSError) as error:
        message = f"these are no weights that can be read safely ({error})."
        raise AdapterUnusable(message, where=str(path), fix="Save the adapter as safetensors.") from error
    if not isinstance(values, Mapping) or not all(isinstance(value, np.ndarray) for value in values.values()):
        raise AdapterUnusable("this file holds other things than tensors.", where=str(path))
    return dict(values)


class _Unpickler(pickle.Unpickler):
    """Reads tensors and plain containers. Every other name in the pickle is refused."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(file)
        self._archive, self._prefix = archive, prefix

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return known[module, name]

    def persistent_load(self, identifier: Any) -> np.ndarray:
        """The values of a storage: a file of the archive."""
        _, dtype, key, _, count = identifier
        if not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError("it has a storage of an unknown kind")
        data = self._archive.read(f"{self._prefix}data/{key}")
        return np.frombuffer(data, dtype, count)


def _tensor(storage: np.ndarray, offset: int, shape: Sequence[int], strides: Sequence[int], *_: Any) -> np.ndarray:
    """A view into a storage; `offset` and `strides` count values."""
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if offset < 0 or min(shape, default=1) < 0 or min(strides, default=0) < 0:
        raise ValueError("a tensor lies outside its storage")
    if math.prod(shape) and last >= storage.size:
        raise ValueError("a tensor lies outside its storage")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _parameter(values: np.ndarray, *_: Any) -> np.ndarray:
    return values
