import sys

import numpy as np
import psutil
import pytest

from bp_cuda import host_memory


def resident():
    return psutil.Process().memory_info().rss


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take freed memory back by themselves")
def test_freed_memory_goes_back_to_the_system():
    """Pieces too small for maps of their own, freed below one that stays."""
    pieces = [np.ones(8000) for _ in range(2000)]
    kept = [np.ones(8000)]
    del pieces
    held = resident()
    host_memory.give_back()
    assert held - resident() > 64 << 20
    assert kept
