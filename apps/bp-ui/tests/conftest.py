import json
import os
import socket
import threading

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["BACKPROPAGATE_TRAIN_REPORT_TO"] = "none"


import pytest
import uvicorn
from page_runs import ADDRESS, PORT, wait_for_children, written_run
from starlette.testclient import TestClient

from backpropagate.ui_config import UiConfig
from bp_ui.app import create_app
from bp_ui.site import Site


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home, and an empty folder to work in."""
    monkeypatch.setenv("BACKPROPAGATE_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def site(home):
    return Site.of(UiConfig(port=PORT, open=False), PORT)


@pytest.fixture
def app(site):
    app = create_app(site)
    yield app
    app.state.helpers.end()
    wait_for_children(site.jobs)


@pytest.fixture
def stranger(app):
    """A browser that has not signed in."""
    return TestClient(app, base_url=ADDRESS, follow_redirects=False)


@pytest.fixture
def browser(app, site, stranger):
    """A browser that has signed in and is on a page of ours."""
    stranger.cookies.set(site.cookie, site.sessions.begin(), domain="127.0.0.1")
    stranger.headers["origin"] = ADDRESS
    return stranger


@pytest.fixture
def rows(home, tmp_path):
    path = tmp_path / "work" / "rows.jsonl"
    lines = [json.dumps({"prompt": f"Question {n}?", "completion": f"It is {7 * n}, of course."}) for n in range(12)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def run(home, tmp_path):
    """A finished run as a training leaves it, without the training."""
    return written_run(tmp_path / "work" / "output")


@pytest.fixture
def server(app):
    """The page on a real socket, for what a client in Python would put right."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    port = listening.getsockname()[1]
    site = app.state.site
    object.__setattr__(site, "hosts", frozenset([f"127.0.0.1:{port}"]))
    running = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield port
    running.should_exit = True
    thread.join(10)
    listening.close()
