"""Other libraries' notices kept out of ours."""

from __future__ import annotations

import logging
import os


def quiet_libraries() -> None:
    """Keep other libraries' progress bars and notices out of ours."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
