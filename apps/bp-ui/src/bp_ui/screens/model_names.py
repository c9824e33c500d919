"""Which names of models the page takes: presets, ids of the hub, and what lies in its folders or was trained on."""

from __future__ import annotations

import re
from pathlib import Path

from bp_core.errors import BadValue, FileMissing
from bp_plan.presets import PRESETS

from ..feed import Runs
from ..site import Site

_HUB_ID = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}(@\w[\w./-]{0,95})?")
_OLLAMA = re.compile(r"ollama:\w[\w.-]{0,63}(/[\w.-]{1,63})?(:[\w.-]{1,63})?")


def checked_model(name: str, site: Site, runs: Runs) -> str:
    """The name as the training takes it. Raises BadValue for what is none, FileMissing for a folder not shown."""
    if name in PRESETS or _OLLAMA.fullmatch(name):
        return name
    if any(name == entry.model for entry in runs.entries()):
        return name
    path = Path(name)
    if name and "\0" not in name and (path.is_absolute() or (site.here / path).exists()):
        if site.folders.shows((site.here / path).resolve()):
            return name
        raise FileMissing("there is no such model here.", fix="Choose a preset, or a folder below one of the page's.")
    if _HUB_ID.fullmatch(name):
        return name
    raise BadValue("this is no name of a model.", fix="Take a preset, or an id of the hub like owner/name.")
