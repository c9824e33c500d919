"""What the processor is said to compute with, against what it does."""

import pytest
import torch

from bp_core import processor as host
from bp_core.backends import find
from bp_cuda import processor


def test_the_probe_names_the_processor_and_its_instructions():
    probe = find("cpu").probe()
    assert probe.processor == host.name() != ""
    assert probe.instructions == torch.backends.cpu.get_cpu_capability().lower()


def test_auto_takes_bfloat16_only_where_it_is_computed_by_instructions():
    rail = find("cpu")
    emulated = not processor.multiplies_bfloat16()
    assert rail.probe().dtype == ("float32" if emulated else "bfloat16")
    assert rail.slowdown("float32") is None and rail.slowdown("auto") is None
    assert (rail.slowdown("bfloat16") is not None) == emulated


def test_a_format_is_as_slow_as_itself():
    threads = torch.get_num_threads()
    assert processor.slowdown(torch.float32) == pytest.approx(1, abs=0.9)
    assert torch.get_num_threads() == threads
