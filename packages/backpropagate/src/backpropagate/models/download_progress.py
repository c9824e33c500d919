"""The bytes of a download as progress events, in place of the bars that huggingface_hub draws."""

from __future__ import annotations

import io
import threading
from typing import Any

from tqdm import tqdm

from bp_core.events import Notify, Progress

_BYTES = "B"  # the unit of those of its bars that count bytes; others count files


def bytes_told(stage: str, notify: Notify) -> type[Any]:
    """A class for `snapshot_download(tqdm_class=…)` that draws nothing, and tells `notify` the bytes that are here.

    Of several bars of bytes (what arrived, and what was written) the one that is farthest is told.
    """
    lock = threading.Lock()
    farthest = 0

    class Bytes(tqdm):  # type: ignore[misc]
        def __init__(self, *words: Any, **settings: Any) -> None:
            super().__init__(*words, **settings | {"file": io.StringIO(), "mininterval": 3600.0})

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal farthest
            drawn: bool | None = super().update(n)
            with lock:
                if self.unit == _BYTES and self.n > farthest:
                    farthest = int(self.n)
                    notify(Progress(stage, farthest, int(self.total or 0), _BYTES))
            return drawn

    return Bytes
