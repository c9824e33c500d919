"""Checkpoints that were cut short, altered by a bit, emptied or robbed of a file: never used, never fatal."""

import random
import shutil

from .runs import finish, losses, same


def cut(path, draw):
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def flip(path, draw):
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def empty(path, draw):
    path.write_bytes(b"")


def remove(path, draw):
    path.unlink()


HARMS = (cut, flip, empty, remove)


def damage_all(model, rows, folder, reference, killed, every=1):
    """Each harm to each file of the newest checkpoint of a killed run; how many were survived."""
    draw, count = random.Random(1), 0
    names = sorted(path.name for path in _newest(killed).iterdir())
    for name, harm in [(name, harm) for name in names for harm in HARMS][::every]:
        output = folder / f"{harm.__name__}-{name}"
        shutil.copytree(killed, output)
        harm(_newest(output) / name, draw)
        finish(model, rows, output, folder / "damage.log")
        same(output, reference)
        assert losses(output)
        count += 1
    return count


def _newest(output):
    return max(output.glob("runs/*/checkpoints/step-*"))
