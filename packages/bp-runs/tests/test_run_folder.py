"""Which run of a folder to go on with."""

import pytest

from bp_core.errors import NothingToResume
from bp_runs import run_folder


def test_the_newest_unfinished_run_comes_first_and_a_finished_one_only_to_be_extended(tmp_path):
    with pytest.raises(NothingToResume):
        run_folder.newest_unfinished(tmp_path, or_finished=True)
    first, second = (run_folder.create(tmp_path) for _ in range(2))
    second.write(status="finished")
    for or_finished in (False, True):
        assert run_folder.newest_unfinished(tmp_path, or_finished=or_finished).id == first.id
    first.write(status="finished")
    assert run_folder.newest_unfinished(tmp_path, or_finished=True).id == second.id
    with pytest.raises(NothingToResume, match="no unfinished run"):
        run_folder.newest_unfinished(tmp_path)
