"""Uploads: one commit or nothing, large files by their hash, and each refusal of the hub as an error with a fix."""

import socket

import huggingface_hub
import pytest
from push_hub import READER, TOKEN, connected

from bp_core.errors import (
    BadValue,
    HubConflict,
    HubRepositoryMissing,
    HubRepositoryPublic,
    HubTokenMissing,
    HubTokenRefused,
    HubUnreachable,
    HubUploadFailed,
)
from bp_export.hub import Item, push

# huggingface_hub gives its files to httpx in a way that is to go.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with connected(monkeypatch, tmp_path) as server:
        yield server


@pytest.fixture
def items(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"weights" * 1000)
    (tmp_path / "config.json").write_text("{}")
    return [Item("README.md", b"---\nlicense: mit\n---\n\n# A\n"), *map(item, sorted(tmp_path.glob("*.*")))]


def item(path):
    return Item(path.name, path)


def send(items, repo="me/a", private=False):
    return push(repo, items, private=private, message="test")


def test_everything_arrives_in_one_commit(hub, items, tmp_path):
    done = send(items)
    assert done.url == f"{hub.url}/me/a" and len(done.commit) == 40
    assert hub.commits == [["README.md", "a.safetensors", "config.json"]]
    assert hub.content("me/a", "a.safetensors") == (tmp_path / "a.safetensors").read_bytes()
    assert hub.private == set()


def test_other_files_stay_and_what_is_there_is_not_sent_again(hub, items):
    send(items)
    hub.repos["me/a"]["notes.txt"] = b"by hand"
    send([*items[:2], Item("config.json", b'{"new": 1}')])
    assert hub.commits[1] == ["config.json"]
    assert hub.content("me/a", "notes.txt") == b"by hand" and hub.content("me/a", "config.json") == b'{"new": 1}'
    assert len(hub.sent) == 1
    assert len(send([*items[:2], Item("config.json", b'{"new": 1}')]).commit) == 40  # nothing to do is no error


def test_private_is_private_or_refused(hub, items):
    send(items, "club/secret", private=True)
    assert hub.private == {"club/secret"}
    send(items, "club/secret", private=True)
    send(items, "me/open")
    with pytest.raises(HubRepositoryPublic):
        send([Item("more.json", b"{}")], "me/open", private=True)
    assert "more.json" not in hub.repos["me/open"]


@pytest.mark.parametrize("repo", ["model", "me/", "a/b/c", "me/-x", "me/with space"])
def test_a_bad_name_is_refused_before_anything_is_asked(monkeypatch, items, repo):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(BadValue) as caught:
        send(items, repo)
    assert "--repo" in caught.value.fix


def test_no_token_says_where_to_get_one(hub, items, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubTokenMissing) as caught:
        send(items)
    assert "hf auth login" in caught.value.fix and hub.repos == {}
    (tmp_path / "token").write_text(TOKEN)  # as `hf auth login` leaves it
    assert send(items).commit


@pytest.mark.parametrize("token", ["hf_" + "x" * 34, READER], ids=["unknown", "may only read"])
def test_a_token_that_is_refused_is_not_shown(hub, items, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubTokenRefused) as caught:
        send(items)
    assert token not in str(caught.value) and "write access" in caught.value.fix
    assert hub.repos == {}


def test_an_owner_that_is_not_there(hub, items):
    with pytest.raises(HubRepositoryMissing):
        send(items, "nobody/a")


@pytest.mark.parametrize(("status", "kind"), [(409, HubConflict), (412, HubConflict), (400, HubUploadFailed)])
def test_a_commit_that_is_refused_changes_nothing_and_may_be_tried_again(hub, items, status, kind):
    hub.commit_status = status
    with pytest.raises(kind):
        send(items)
    assert hub.repos == {"me/a": {}}
    send(items)
    assert len(hub.repos["me/a"]) == 3 and len(hub.sent) == 1


def test_a_page_that_the_hub_calls_invalid_stops_before_anything_is_sent(hub, items):
    with pytest.raises(HubUploadFailed, match="license"):
        send([Item("README.md", b"---\nlicense: whatever\n---\n"), *items[1:]])
    assert hub.sent == []


def test_a_large_file_that_is_refused(hub, items):
    hub.put_status = 400
    with pytest.raises(HubUploadFailed, match="Bad request") as caught:
        send(items)
    assert "signature" not in str(caught.value)
    assert hub.repos == {"me/a": {}}


def test_no_answer(monkeypatch, items):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(HubUnreachable, match="me/a") as caught:
        send(items)
    assert "same command again" in caught.value.fix
