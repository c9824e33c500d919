import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

mlx = pytest.importorskip("mlx.core", reason="there is no MLX for this machine")

import tiny_mlx


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return tiny_mlx.save(tmp_path_factory.mktemp("tiny"))
