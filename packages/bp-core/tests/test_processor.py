"""The name of the processor."""

import platform
import sys
from pathlib import Path

import pytest

from bp_core import processor


def test_there_is_always_a_name():
    assert processor.name() and processor.name() == processor.name().strip()


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="told elsewhere")
def test_linux_tells_it():
    assert processor.name() in " ".join(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())


def test_some_systems_tell_none():
    assert processor._model("processor\t: 0\nBogoMIPS\t: 50.00\n") == ""
    assert processor._model("processor\t: 0\nmodel name\t: Am486 DX4\nmodel name\t: other\n").strip() == "Am486 DX4"
