import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from importlib.util import find_spec

import pytest

if find_spec("mlx") is None:  # there is no MLX for this machine
    collect_ignore_glob = ["test_*"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    import tiny_mlx  # noqa: PLC0415 - it needs MLX

    return tiny_mlx.save(tmp_path_factory.mktemp("tiny"))
