"""Report the progress of a loop."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeVar

from bp_core.events import Notify, Progress

Item = TypeVar("Item")


def tracked(items: Collection[Item], stage: str, notify: Notify | None) -> Iterator[Item]:
    """Yield the items, and report after each how many are done."""
    for done, item in enumerate(items, 1):
        yield item
        if notify:
            notify(Progress(stage, done, len(items)))
