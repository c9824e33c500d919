"""One registration for registration.py, by the checkout on PYTHONPATH; prints what it took as JSON.

The digest of the file is computed first, as the export does at its end.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peak_memory import peak

from bp_core import folders
from bp_export.ollama import Ollama, blob, register


def main() -> None:
    file, name = Path(sys.argv[1]), sys.argv[2]
    # Older checkouts have their settings elsewhere, and compute one digest only.
    config = importlib.import_module("bp_export.config" if find_spec("bp_export.config") else "bp_core.config")
    digest: Callable[[Path], str] = getattr(blob, "digests", folders.digest)
    steps = Steps()
    start, read = time.perf_counter(), bytes_read()
    digest(file)
    digested, read_for_digest = time.perf_counter(), bytes_read() - read
    register(file, config.ExportConfig(ollama_name=name), notify=steps)
    end = time.perf_counter()
    with Ollama() as server:
        server.remove(name)
    size = file.stat().st_size
    print(
        json.dumps(
            {
                "digest_seconds": digested - start,
                "upload_seconds": steps.last - digested,
                "seconds": end - start,
                "passes": (read_for_digest + steps.bytes) / size,
                "peak": peak(),
            }
        )
    )


class Steps:
    """Counts the bytes that a registration reads, by the progress that it tells of each pass."""

    def __init__(self) -> None:
        self.stages: dict[str, int] = {}
        self.last = time.perf_counter()

    def __call__(self, progress: Any) -> None:
        if progress.total:
            self.stages[progress.stage] = progress.done
            self.last = time.perf_counter()

    @property
    def bytes(self) -> int:
        return sum(self.stages.values())


def bytes_read() -> int:
    """What this process read so far, by the kernel's count; memory that is mapped does not count."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


if __name__ == "__main__":
    main()
