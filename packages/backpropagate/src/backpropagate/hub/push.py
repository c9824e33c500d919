"""`push`: from a path and a repository to what would be uploaded, and the upload."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_export import hub
from bp_export.config import PushConfig
from bp_export.hub import Item, PushResult

from .card import CARD, card
from .files import parcel


@dataclass(frozen=True)
class Shipment:
    """What is to be uploaded to `repo`, the card among it."""

    repo: str
    private: bool
    items: tuple[Item, ...]

    @property
    def card(self) -> str:
        content = next(item.content for item in self.items if item.name == CARD)
        assert isinstance(content, bytes)
        return content.decode()

    def as_dict(self) -> dict[str, Any]:
        files = {item.name: item.size for item in self.items}
        return {"repo": self.repo, "private": self.private, "files": files, "bytes": sum(files.values())}

    def push(self) -> PushResult:
        """Upload it. Raises what `bp_export.hub.push` raises."""
        return hub.push(self.repo, self.items, private=self.private, message="Upload with backprop push")


def gather(name: str | Path, repo: str, config: PushConfig) -> Shipment:
    """Gather the files and write the card; nothing is sent, and no token is needed.

    Raises BadValue, TargetNotFound, FileMissing, AdapterUnusable, GgufUnusable.
    """
    hub.check_name(repo)
    found = parcel(name, config)
    items = [*card(found, repo, samples=config.samples), *found.items()]
    return Shipment(repo, config.private, tuple(items))
