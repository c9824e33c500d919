import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from bp_core.errors import DiskFull, OutputUnusable
from bp_core.folders import (
    damage,
    home,
    move,
    move_if_free,
    new_file,
    new_folder,
    sweep,
    writable_folder,
    write_json,
)


def fill(folder):
    (folder / "a.bin").write_bytes(b"a" * 100)
    (folder / "deep").mkdir()
    (folder / "deep" / "b.txt").write_text("b")


def test_a_folder_appears_whole(tmp_path):
    target = tmp_path / "made" / "here"
    with new_folder(target) as draft:
        fill(draft)
        assert not target.exists()
    assert damage(target) is None
    assert json.loads((target / "manifest.json").read_text()).keys() == {"a.bin", "deep/b.txt"}
    assert os.listdir(tmp_path / "made") == ["here"]


def test_a_folder_whose_draft_was_moved_away_is_not_called_whole(tmp_path):
    place = tmp_path / "place"
    with pytest.raises(OutputUnusable, match="moved or removed"), new_folder(place / "target") as draft:
        fill(draft)
        place.rename(tmp_path / "elsewhere")
        write_json(draft / "settings.json", {})  # which makes the draft's folder anew
    assert not (place / "target").exists()


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "x") as draft:
        fill(draft)
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), new_file(tmp_path / "y"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="no kill -9 on Windows")
def test_a_process_killed_while_writing_leaves_no_folder_of_that_name(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from bp_core.folders import new_folder\n"
        "with new_folder(Path(sys.argv[1])) as draft:\n"
        "    (draft / 'a').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")])
    assert done.returncode == -signal.SIGKILL and not (tmp_path / "x").exists()


def test_a_name_that_is_taken_is_left_alone(tmp_path):
    taken = tmp_path / "x"
    taken.mkdir()
    fill(taken)
    with pytest.raises(OutputUnusable), new_folder(taken) as draft:
        (draft / "mine").write_text("new")
    assert sorted(os.listdir(taken)) == ["a.bin", "deep"] and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (lambda folder: (folder / "a.bin").write_bytes(b"b" * 100), "altered"),
        (lambda folder: (folder / "a.bin").write_bytes(b"a" * 99), "altered"),
        (lambda folder: (folder / "deep" / "b.txt").unlink(), "missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not valid"),
    ],
)
def test_damage_is_seen(tmp_path, harm, word):
    with new_folder(tmp_path / "x") as draft:
        fill(draft)
    harm(tmp_path / "x")
    assert word in damage(tmp_path / "x")


def test_a_file_is_replaced_at_once(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    write_json(tmp_path / "x.json", {"ü": 2})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"ü": 2}
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_disk_that_becomes_read_only_is_told_though_the_draft_cannot_be_removed(tmp_path, monkeypatch):
    def refused(self, missing_ok=False):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.unlink", refused)
    with pytest.raises(OutputUnusable, match="Read-only"), new_file(tmp_path / "a.gguf"):
        raise OSError(errno.EROFS, "Read-only file system")


def test_an_output_must_be_a_folder(tmp_path):
    assert writable_folder(tmp_path / "new" / "one").is_dir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputUnusable, match="a file"):
        writable_folder(tmp_path / "file")
    with pytest.raises(OutputUnusable):
        writable_folder(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_a_full_disk_is_said_to_be_one(tmp_path):
    with pytest.raises(DiskFull), new_file(tmp_path / "x") as draft, draft.open("wb") as file:
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")
        file.write(b"y")
    assert os.listdir(tmp_path) == []


def test_home_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("BACKPROPAGATE_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("BACKPROPAGATE_HOME")
    assert home().name == ".backpropagate"


def test_sweeping_removes_unfinished_writes_of_that_name_only(tmp_path):
    (tmp_path / ".x.draft").mkdir()
    (tmp_path / ".x.draft" / "half").write_text("x")
    (tmp_path / ".x.json.draft").write_text("x")
    for name in (".y.draft", "x", "x.json"):
        (tmp_path / name).write_text("mine")
    sweep(tmp_path, "x")
    assert sorted(os.listdir(tmp_path)) == [".y.draft", "x", "x.json"]


def test_moving_a_folder_never_replaces_one(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        fill(tmp_path / name)
    with pytest.raises(OutputUnusable):
        move(tmp_path / "a", tmp_path / "b")
    move(tmp_path / "a", tmp_path / "c")
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]


def test_a_place_that_is_taken_is_told_from_one_that_cannot_be_written(tmp_path):
    source, taken = tmp_path / "source", tmp_path / "taken"
    for folder in (source, taken):
        folder.mkdir()
        fill(folder)
    assert move_if_free(source, taken) is False and source.is_dir()
    assert move_if_free(source, tmp_path / "free") is True and not source.exists()
    with pytest.raises(OutputUnusable, match="is gone"):
        move_if_free(taken, tmp_path / "removed" / "x")


@pytest.mark.skipif(os.name == "nt", reason="modes are of POSIX")
@pytest.mark.parametrize(("mask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_everything_in_a_folder_gets_the_access_that_the_umask_allows(tmp_path, mask, file_mode, folder_mode):
    before = os.umask(mask)
    try:
        with new_folder(tmp_path / "x") as draft:
            fill(draft)
            (draft / "a.bin").chmod(0o600)  # as safetensors writes
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "x").rglob("*") if path.is_file()}
    assert modes == {file_mode} and (tmp_path / "x" / "deep").stat().st_mode & 0o777 == folder_mode
