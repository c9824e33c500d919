"""The page in a real browser, quickly: signing in, the list, a run with its curve, keys, the theme."""

import json

import pytest
from page_runs import written_run
from page_server import Looker, PageServer, chromium


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def server(home, tmp_path):
    server = PageServer(tmp_path / "work", home)
    yield server
    server.stop()


def test_a_browser_signs_in_by_the_address_and_sees_a_run(browser, server, tmp_path):
    run = written_run(tmp_path / "work" / "output", name="<img src=x onerror=alert(1)>bakery", steps=60)
    look = Looker(browser, server)
    look.page.goto(server.start())
    look.page.wait_for_url("**/runs")
    assert "#" not in look.page.url, "the code is gone from the address"
    assert "bakery" in look.text("#list") and look.page.locator(".spark").count() == 1
    look.page.click("#list a")
    look.until(lambda: "60 of 60 steps" in look.text("#where"))
    assert look.page.locator("#loss canvas").count() == 1
    look.until(lambda: "0.03333" in look.text("#f-loss"))
    look.page.reload()
    look.until(lambda: "60 of 60 steps" in look.text("#where"))
    look.page.fill("#note", "the one </textarea><script>alert(1)</script>")
    look.page.click("text=Keep the note")
    look.until(lambda: (run.path / "note.txt").is_file())
    look.page.click("#theme")
    assert look.page.get_attribute("html", "data-theme") == "dark"
    look.page.reload()
    assert look.page.get_attribute("html", "data-theme") == "dark" and "alert(1)" in look.page.input_value("#note")
    look.page.locator("h1").click()
    look.page.keyboard.press("?")
    assert look.page.locator("#keys").is_visible()
    look.page.keyboard.press("Escape")
    look.page.keyboard.press("g")
    look.page.keyboard.press("r")
    look.page.wait_for_url("**/runs")
    assert look.faults == []
    assert server.errors() == []


def test_a_browser_without_the_code_sees_nothing(browser, server):
    server.start()
    look = Looker(browser, server)
    look.go("/runs")
    assert "/sign-in" in look.page.url and "Sign in" in look.text("h1")
    look.page.fill("#code", "wrong")
    look.page.click("button")
    look.until(lambda: "not right" in look.text("#problem"))


CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "<b>"}}}
CALLED = {"role": "assistant", "content": "", "reasoning_content": "I have to look.", "tool_calls": [CALL]}
SAID = {"role": "assistant", "content": "It is <i>."}
ANSWERS = [
    [{"opened": True}, {"thought": "I have "}, {"thought": "to look."}, {"turn": CALLED, "closed": True}],
    [{"opened": True}, {"text": "It is "}, {"text": "<i>."}, {"turn": SAID, "closed": True}],
]


def test_thoughts_fold_and_calls_are_calls_that_take_a_result(browser, server):
    look = Looker(browser, server)
    look.page.goto(server.start())
    look.page.wait_for_url("**/runs")
    asked = []

    def answer(route):
        asked.append(route.request.post_data_json)
        told = [*ANSWERS[len(asked) - 1], {"done": True}]
        route.fulfill(content_type="application/x-ndjson", body="".join(json.dumps(one) + "\n" for one in told))

    look.page.route("**/chat/answer", answer)
    look.go("/chat")
    look.page.click("summary")
    look.page.fill("#tools", "[]")
    look.page.uncheck("#think")
    look.page.fill("#message", "Look!")
    look.page.click("text=Send")
    look.until(lambda: look.page.locator(".call input").count() == 1)
    assert look.text(".call code") == 'look({"at":"<b>"})'
    assert look.page.locator(".thought[open]").count() == 1 and "I have to look." in look.text(".thought")
    look.page.fill(".call input", "seen")
    look.page.press(".call input", "Enter")
    look.until(lambda: "It is <i>." in look.text(".turns"))
    first, second = asked
    assert (first["tools"], first["think"]) == ("[]", False)
    assert [turn["role"] for turn in second["turns"]] == ["user", "assistant", "tool"]
    assert second["turns"][1]["tool_calls"] == [CALL]
    assert second["turns"][2] == {"role": "tool", "name": "look", "content": "seen"}
    assert look.faults == []
