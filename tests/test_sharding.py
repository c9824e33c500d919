"""Two real processes that hold a model together: what one process would learn, with half of the weights in each."""

import os

import pytest
from ranks import Looped, launch
from tiny_models import save_tiny

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here")
WHOLE = {"mode": "full", "learning_rate": 1e-3}


@pytest.fixture
def looped(tmp_path):
    save_tiny(tmp_path / "model")
    return lambda name, **changes: Looped(tmp_path / name, changes=changes)


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    assert max((found[name].float() - expected[name].float()).abs().max().item() for name in found) < 1e-5


@pytest.mark.parametrize(
    ("changes", "how"), [({}, "shard"), (WHOLE, "shard"), (WHOLE, "full_ft_offload")], ids=["lora", "full", "offload"]
)
def test_the_same_weights_as_one_process_comes_to(changes, how, looped, tmp_path):
    """Steps of five rows: one process has a row more than the other."""
    looped("one", batch_size=5, **changes)()
    two = looped("two", batch_size=5, **changes | {how: True})
    codes, said = launch(2, two, tmp_path / "said")
    assert codes == [10, 10], said
    assert_close(two.weights(), looped("one").weights())
