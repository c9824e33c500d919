"""Who may ask: hosts, origins and sessions of the security table of docs/page.md, as attacks that are tried."""

import http.client
import re
import socket
import stat
import time
from pathlib import Path

import pytest
from page_runs import ADDRESS, JSON, PORT, filled, posts
from starlette.routing import Route
from starlette.testclient import TestClient

import bp_ui
from backpropagate.ui_config import UiConfig
from bp_core.errors import AddressUnusable
from bp_ui.app import create_app
from bp_ui.gate import Allowance, Gate, own_path
from bp_ui.passwords import Password
from bp_ui.serve import _bound
from bp_ui.site import Site

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "


# Which site asks

BAD_HOSTS = [
    *("evil.test", "evil.test:7862"),
    *("127.0.0.1:7862.evil", "127.0.0.1.:7862", "127.0.0.1:7862.", "[::1]:7862", "[::1]"),
    *("127.0.0.1", "127.0.0.1:80", "127.0.0.1:7863", "localhost.:7862", "localhost", "0.0.0.0:7862", "2130706433:7862"),
]  # fmt: skip


@pytest.mark.parametrize("host", BAD_HOSTS)
@pytest.mark.parametrize("path", ["/runs", "/sign-in", "/static/app.js", "/nothing"])
def test_a_name_that_is_not_ours_is_refused_before_anything_else(browser, host, path):
    assert browser.get(path, headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:7862", "localhost:7862", "LOCALHOST:7862"])
def test_our_own_names_are_answered(browser, host):
    assert browser.get("/static/app.js", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("hosts", [[], [""], ["evil.test", "127.0.0.1:{}"], ["127.0.0.1:{}", "evil.test"]])
def test_no_host_an_empty_one_and_two_are_refused(server, hosts):
    connection = http.client.HTTPConnection("127.0.0.1", server, timeout=10)
    connection.putrequest("GET", "/sign-in", skip_host=True)
    for host in hosts:
        connection.putheader("Host", host.format(server))
    connection.endheaders()
    assert connection.getresponse().status in (400, 403)
    connection.close()


BAD_ORIGINS = [
    {},
    *(
        {"origin": origin}
        for origin in ("http://evil.test", "null", "http://127.0.0.1:7863", "", "https://127.0.0.1:7862")
    ),
]


@pytest.mark.parametrize(
    "headers",
    [
        *BAD_ORIGINS,
        {"origin": ADDRESS, "sec-fetch-site": "cross-site"},
        {"origin": ADDRESS, "sec-fetch-site": "same-site"},
    ],
)
def test_no_other_site_changes_anything(browser, app, headers):
    del browser.headers["origin"]
    for route in posts(app):
        assert browser.post(route, headers=headers | JSON, content=b"{}").status_code == 403, route
    assert app.state.site.jobs.all() == []


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_what_a_form_can_send_is_not_taken(browser, app, kind):
    for route in posts(app):
        assert browser.post(route, headers={"content-type": kind}, content=b'{"wish": "stop"}').status_code == 403


def test_reading_changes_nothing(browser, app, run, rows):
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    skipped = ("/system/backends", "/models/list", "/data-rows")  # they ask a process; test_walk.py does
    for route in app.routes:
        if isinstance(route, Route) and "GET" in route.methods and route.path not in skipped:
            browser.get(filled(route.path, run), headers={"accept": "text/html"})
    for route in posts(app):
        assert browser.get(route).status_code in (200, 400, 404, 405), route
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before
    assert app.state.site.jobs.all() == []


@pytest.mark.parametrize("path", ["/runs", "/static/app.js", "/sign-in", "/nothing"])
def test_no_other_site_reads_and_every_answer_has_its_guards(browser, path):
    answer = browser.get(path, headers={"origin": "http://evil.test"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    said = answer.headers
    assert said["cross-origin-resource-policy"] == said["cross-origin-opener-policy"] == "same-origin"
    assert said["x-content-type-options"] == "nosniff" and said["referrer-policy"] == "no-referrer"
    assert said["content-security-policy"].startswith(POLICY)
    assert all(
        rule in said["content-security-policy"]
        for rule in ("frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'")
    )
    assert "unsafe" not in said["content-security-policy"]


@pytest.mark.parametrize("mode", ["no-cors", "cors"])
def test_another_site_cannot_even_ask(browser, mode):
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": mode}
    assert browser.get("/runs", headers=headers).status_code == 403


def test_no_template_has_a_script_or_a_style_in_it():
    for path in Path(bp_ui.__file__).parent.glob("templates/*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=|javascript:|<style|\|\s*safe|https?://", text), (
            path.name
        )


def test_scripts_make_no_markup_of_what_they_are_told():
    for path in Path(bp_ui.__file__).parent.glob("static/*.js"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"insertAdjacentHTML|outerHTML|document\.write|\beval\(|new Function", text), path.name
        assert text.count(".innerHTML =") == (1 if path.name == "app.js" else 0), path.name


# Who asks


def test_nothing_is_shown_without_a_session(stranger, app, run):
    for route in app.routes:
        if not isinstance(route, Route) or route.path == "/sign-in":
            continue
        path = filled(route.path, run)
        assert stranger.get(path).status_code == 401, path
        asked = stranger.get(path, headers={"accept": "text/html"})
        assert asked.status_code == 303 and asked.headers["location"].startswith("/sign-in"), path
        assert str(run.path) not in asked.text
    for path in posts(app):
        if path != "/sign-in":
            assert stranger.post(path, headers=JSON | {"origin": ADDRESS}, content=b"{}").status_code == 401, path


def test_the_page_to_sign_in_says_nothing_of_this_machine(stranger, site):
    text = stranger.get("/sign-in").text
    assert str(site.here) not in text and str(Path.home()) not in text


def test_a_code_works_once_within_its_time(stranger, site, monkeypatch):
    code = site.sessions.new_code()
    stranger.headers["origin"] = ADDRESS
    first = stranger.post("/sign-in", json={"code": code})
    assert first.status_code == 200 and first.json() == {"location": "/"}
    assert stranger.get("/runs").status_code == 200
    assert stranger.post("/sign-in", json={"code": code}).status_code == 403
    late = site.sessions.new_code()
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 601)
    assert stranger.post("/sign-in", json={"code": late}).status_code == 403


@pytest.mark.parametrize("code", ["", "x", "../sessions", "a" * 10_000, "\0"])
def test_a_wrong_code_opens_nothing(stranger, code):
    assert stranger.post("/sign-in", json={"code": code}, headers={"origin": ADDRESS}).status_code == 403


def test_the_cookie_is_kept_from_scripts_and_other_sites(stranger, site):
    cookie = stranger.post("/sign-in", json={"code": site.sessions.new_code()}, headers={"origin": ADDRESS}).headers[
        "set-cookie"
    ]
    assert cookie.startswith(f"bp-{PORT}=")
    assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/")) and "Domain" not in cookie


def test_a_session_is_new_at_each_sign_in_and_dead_after_signing_out(stranger, site):
    stranger.headers["origin"] = ADDRESS
    stranger.cookies.set(site.cookie, "chosen-by-somebody-else", domain="127.0.0.1")
    stranger.post("/sign-in", json={"code": site.sessions.new_code()})
    assert not site.sessions.is_open("chosen-by-somebody-else")
    (secret,) = [value for value in stranger.cookies.jar if value.name == site.cookie and len(value.value) > 40]
    assert site.sessions.is_open(secret.value)
    stranger.cookies.clear()
    stranger.cookies.set(site.cookie, secret.value, domain="127.0.0.1")
    assert stranger.post("/sign-out", json={}).status_code == 200
    assert not site.sessions.is_open(secret.value)


def test_signing_out_everywhere_ends_other_browsers(browser, site):
    other = site.sessions.begin()
    browser.post("/sign-out", json={"everywhere": True})
    assert not site.sessions.is_open(other)


def test_sessions_outlive_the_server_and_lie_as_hashes_that_are_the_owners_alone(site, home):
    secret = site.sessions.begin()
    again = Site.of(UiConfig(port=PORT), PORT)
    assert again.sessions.is_open(secret)
    (file,) = (home / "ui" / "sessions").iterdir()
    assert secret not in file.name + file.read_text(encoding="utf-8")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.fixture
def guarded(home):
    """A page with a password, for a proxy that does TLS."""
    site = Site.of(UiConfig(share=True, behind="https://train.example.org"), PORT, ("ada", "correct horse battery"))
    client = TestClient(create_app(site), base_url="https://train.example.org", follow_redirects=False)
    client.headers["origin"] = "https://train.example.org"
    return client, site


def test_a_shared_page_answers_its_own_name_alone_and_marks_its_cookie(guarded):
    client, _ = guarded
    right = client.post("/sign-in", json={"name": "ada", "password": "correct horse battery"})
    assert right.status_code == 200 and right.headers["strict-transport-security"]
    assert right.headers["set-cookie"].startswith(f"__Host-bp-{PORT}=") and "Secure" in right.headers["set-cookie"]
    assert client.get("/sign-in", headers={"host": "127.0.0.1:7862"}).status_code == 403
    assert client.get("/runs").status_code == 200


def test_passwords_are_tried_a_few_times_a_minute_only(guarded):
    client, _ = guarded
    answers = []
    for number in range(7):
        body = {"name": "ada" if number % 2 else "nobody", "password": "wrong"}
        answers.append(client.post("/sign-in", json=body, headers={"x-forwarded-for": "203.0.113.9"}))
    assert [answer.status_code for answer in answers] == [403] * 5 + [429] * 2
    assert len({answer.text for answer in answers[:5]}) == 1, "an unknown name is told like a wrong password"
    assert int(answers[-1].headers["retry-after"]) > 0
    other = client.post(
        "/sign-in",
        json={"name": "ada", "password": "correct horse battery"},
        headers={"x-forwarded-for": "203.0.113.10"},
    )
    assert other.status_code == 200


def test_all_addresses_together_are_bounded():
    password = Password.of("ada", "correct horse battery")
    assert sum(password.wait(f"10.0.0.{n}") == 0 for n in range(100)) == 30


def test_a_code_does_not_open_a_page_with_a_password(guarded):
    client, site = guarded
    assert client.post("/sign-in", json={"code": site.sessions.new_code()}).status_code == 403


def test_another_password_ends_the_sessions_of_the_old_one(guarded):
    _, site = guarded
    secret = site.sessions.begin()
    config = UiConfig(share=True, behind="https://train.example.org")
    assert Site.of(config, PORT, ("ada", "correct horse battery")).sessions.is_open(secret)
    assert not Site.of(config, PORT, ("ada", "another password")).sessions.is_open(secret)
    assert not Site.of(UiConfig(), PORT).sessions.is_open(secret)


@pytest.mark.parametrize(
    "wanted",
    [
        "//evil.test",
        "/\\evil.test",
        "https://evil.test",
        "javascript:alert(1)",
        "/\tx",
        "\\evil",
        "/a\\b",
        "evil",
        "",
        "/\n/evil.test",
        "/ /x",
    ],
)
def test_nobody_is_sent_elsewhere_after_signing_in(stranger, site, wanted):
    body = {"code": site.sessions.new_code(), "next": wanted}
    assert stranger.post("/sign-in", json=body, headers={"origin": ADDRESS}).json()["location"] == "/"
    assert own_path(wanted) == "/"


def test_a_place_of_ours_is_kept():
    assert own_path("/runs/20260101-000000-abcd?after=3") == "/runs/20260101-000000-abcd?after=3"


def test_a_thousand_polls_are_slowed_down():
    allowance = Allowance(rate=10, most=20, left=20)
    assert sum(allowance.takes() for _ in range(1000)) <= 21


def test_polls_beyond_the_allowance_are_told_to_wait(app, site):
    gate = Gate(app, site)
    gate._allowance = Allowance(rate=0.1, most=3, left=3)
    client = TestClient(gate, base_url=ADDRESS)
    answers = [client.get("/static/icon.svg") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 2
    assert answers[-1].headers["retry-after"] == "1"


def test_a_port_that_is_in_use_is_told_with_a_way_in(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(AddressUnusable, match="cannot listen"):
            _bound("127.0.0.1", UiConfig(port=taken.getsockname()[1]))
