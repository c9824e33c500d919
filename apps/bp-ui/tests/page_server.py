"""The page as a process of its own, and a browser that looks at it and hears of everything that is wrong."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).parent / "axe" / "axe.min.js"


class PageServer:
    """`backprop ui` in a folder, with a home; it can be killed and started again at the same port."""

    def __init__(self, folder, home):
        self.folder, self.home, self.log = folder, home, folder.parent / "server.txt"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        """Start it; the address to sign in at."""
        variables = os.environ | {"BACKPROPAGATE_HOME": str(self.home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-m", "backpropagate", "ui", "--no-open", "--port", str(self.port)]
        with self.log.open("ab") as said:
            self.process = subprocess.Popen(
                words, cwd=self.folder, env=variables, stdout=subprocess.PIPE, stderr=said, text=True
            )
        line = self.process.stdout.readline()
        self.process.stdout.close()
        found = re.search(r"http\S+", line)
        assert found, self.log.read_text(encoding="utf-8")
        return found[0]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)

    def errors(self):
        """What it told on stderr besides that it can be ended."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line.strip() and not line.startswith(("Ctrl-C", "Stopped"))]


@contextmanager
def chromium():
    """Debian's Chromium; the test is skipped where it or Playwright is not there."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    api = pytest.importorskip("playwright.sync_api", reason="uv sync --group browser brings playwright")
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Looker:
    """A browser's context that notes what must not be: requests elsewhere, refused scripts, errors, dialogues."""

    def __init__(self, browser, server, **settings):
        self.server, self.faults = server, []
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | settings)
        self.context.add_init_script(
            "addEventListener('securitypolicyviolation', e => console.error('CSP', e.violatedDirective, e.blockedURI))"
        )
        self.page = self.context.new_page()
        self.page.on("request", self._asked)
        self.page.on("pageerror", lambda error: self.faults.append(f"error {error}"))
        self.page.on("console", self._told)
        self.page.on("dialog", lambda dialog: (self.faults.append(f"dialogue {dialog.message}"), dialog.dismiss()))

    def _asked(self, request):
        if not request.url.startswith((self.server.address, "data:")):
            self.faults.append(f"request {request.url}")

    def _told(self, message):
        if message.type == "error" and "ERR_CONNECTION_REFUSED" not in message.text and "ERR_" not in message.text:
            self.faults.append(f"console {message.text}")

    def go(self, path):
        self.page.goto(self.server.address + path)
        self.page.wait_for_load_state()
        return self.page

    def until(self, look, seconds=240):
        """Wait until `look` gives something true; an evaluation in the page would need what the policy forbids."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := look():
                return found
            self.page.wait_for_timeout(150)
        raise AssertionError(f"not within {seconds} s: {self.page.url}\n{self.page.inner_text('body')[:2000]}")

    def text(self, selector):
        return self.page.inner_text(selector)

    def axe(self):
        """The faults that axe-core finds on the page, each with the first place."""
        self.page.evaluate(AXE.read_text(encoding="utf-8") + "; undefined")
        found = self.page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
        return [
            f"{one['id']}: {one['nodes'][0]['html'][:160]} {one['nodes'][0]['failureSummary'][:200]}" for one in found
        ]
