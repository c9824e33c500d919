import os
import threading
import time

import pytest

from bp_core import renaming
from bp_core.renaming import rename, replace


def in_use(number):
    error = PermissionError(13, "the process cannot access the file because it is being used by another process")
    error.winerror = number  # as Windows sets it
    return error


def failing(times, error):
    """An action that raises `error` so many times, and the list of its calls."""
    calls = []

    def action():
        calls.append(len(calls))
        if len(calls) <= times:
            raise error

    return action, calls


@pytest.mark.parametrize("number", [5, 32, 33])
def test_a_file_in_use_is_renamed_once_it_is_released(number):
    action, calls = failing(3, in_use(number))
    waits = []
    renaming._when_released(action, waits.append)
    assert len(calls) == 4 and waits == sorted(waits) and len(waits) == 3


def test_a_file_that_stays_in_use_is_told_after_a_few_seconds():
    action, calls = failing(100, in_use(32))
    waits = []
    with pytest.raises(PermissionError):
        renaming._when_released(action, waits.append)
    assert len(calls) == len(waits) + 1 and 2 < sum(waits) < 5


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone"), PermissionError(13, "read-only"), in_use(183)])
def test_any_other_error_is_told_at_once(error):
    action, calls = failing(100, error)
    with pytest.raises(type(error)):
        renaming._when_released(action)
    assert len(calls) == 1


def test_renaming_and_replacing(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("1")
    second.write_text("2")
    replace(first, second)
    rename(second, tmp_path / "third")
    assert (tmp_path / "third").read_text() == "1" and len(os.listdir(tmp_path)) == 1


@pytest.mark.skipif(os.name != "nt", reason="elsewhere an open file can be renamed")
def test_an_open_file_is_renamed_once_it_is_closed(tmp_path):
    path = tmp_path / "open"
    file = path.open("w")

    def close():
        time.sleep(0.1)
        file.close()

    thread = threading.Thread(target=close)
    thread.start()
    rename(path, tmp_path / "moved")
    thread.join()
    assert (tmp_path / "moved").is_file()
