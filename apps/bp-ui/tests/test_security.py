"""Each row of the security table of docs/page.md, as an attack that is tried."""

import http.client
import re
import socket
import stat
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from page_runs import ADDRESS, PORT, written_run
from starlette.routing import Route
from starlette.testclient import TestClient

import bp_ui
from backpropagate.ui_config import UiConfig
from bp_core.errors import AddressUnusable, FileUnreadable
from bp_ui.app import create_app
from bp_ui.gate import Allowance, Gate, own_path
from bp_ui.helper import rows as read_rows
from bp_ui.passwords import Password
from bp_ui.serve import _bound
from bp_ui.site import Site

JSON = {"content-type": "application/json"}
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


# What is asked for

BAD_PATHS = [
    *("../home/ui", "here/../../home", "here/..%2f..%2fhome", "here/%2e%2e/%2e%2e/home", "here\\..\\..\\home"),
    *("/etc/passwd", "C:/Windows/win.ini", "//server/share", "here/rows.jsonl%00.txt", "~/.ssh/id_rsa", "here/~"),
    *("here/CON", "here/aux.jsonl", "here/.env", "here/.ssh/id_rsa", "here/secret-link.jsonl"),
    *("here/linked/rows.jsonl", "here/", "nowhere/rows.jsonl", "here/nul"),
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS)
def test_no_path_leads_out_of_the_folders(browser, rows, tmp_path, path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "rows.jsonl").write_text('{"prompt": "secret", "completion": "secret"}\n', encoding="utf-8")
    (rows.parent / ".env").write_text("HF_TOKEN=secret", encoding="utf-8")
    (rows.parent / "secret-link.jsonl").symlink_to(outside / "rows.jsonl")
    (rows.parent / "linked").symlink_to(outside)
    answer = browser.get(f"/data/{path}")
    assert answer.status_code in (404, 303, 307) or "secret" not in answer.text
    assert answer.status_code == 404 or path == "here/", path
    assert browser.post("/data-check", json={"address": path}).status_code in (400, 404)
    assert browser.post("/train", json={"data": path, "settings": {}}).status_code in (400, 404)
    assert browser.get("/data-rows", params={"address": path}).status_code in (400, 404)


def test_the_pages_own_records_are_not_data(browser, app, home, monkeypatch):
    monkeypatch.chdir(home.parent)
    site = Site.of(UiConfig(port=PORT), PORT)
    (home / "jobs").mkdir(exist_ok=True)
    (home / "jobs" / "job.json").write_text("{}", encoding="utf-8")
    key = home.parent / "key.json"
    key.write_text("{}", encoding="utf-8")
    site.sessions.begin()
    assert not any("home/jobs" in file.address or "home/ui" in file.address for file in site.folders.data_files())
    keyed = Site.of(UiConfig(share=True, certificate=str(key), key=str(key)), PORT)
    assert keyed.folders.address_of(key) is None and site.folders.address_of(key) == "here/key.json"


@pytest.mark.parametrize(
    "name",
    ["../../x", "20260101-000000-ABCD", "%2e%2e", "x" * 5000, "20260101-000000-abcd\n"],
)
@pytest.mark.parametrize("where", ["/runs/{}", "/runs/{}/events", "/runs/{}/report", "/jobs/{}", "/jobs/{}/state"])
def test_ids_are_ids(browser, where, name):
    assert browser.get(where.format(name.replace("\n", "%0a"))).status_code == 404


@pytest.mark.parametrize("path", ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "..\\app.py", "uplot/../../app.py"])
def test_static_files_are_those_of_their_folder(browser, path):
    assert browser.get(f"/static/{path}").status_code in (404, 405)


def test_a_link_that_is_exchanged_after_the_check_is_seen(browser, rows, tmp_path):
    """The helper that reads compares the path with what it really is at that moment."""
    other = tmp_path / "outside.jsonl"
    other.write_text('{"prompt": "secret", "completion": "secret"}\n', encoding="utf-8")
    helpers = browser.app.state.helpers
    path = str(rows)
    rows.unlink()
    rows.symlink_to(other)
    with pytest.raises(FileUnreadable, match="exchanged"):
        next(read_rows({"file": path, "reading": {}, "skip": 0, "count": 1, "train_on": "assistant"}))
    assert helpers.get("rows")._process is None


# What is sent


def upload(browser, name, content, **headers):
    return browser.post(
        "/upload",
        params={"name": name},
        content=content,
        headers={"content-type": "application/octet-stream", **headers},
    )


def uploads(home):
    return [path for path in (home / "uploads").iterdir()]


def test_an_upload_is_kept_whole_and_for_its_owner(browser, home):
    answer = upload(browser, "my rows.jsonl", b'{"prompt": "a", "completion": "b"}\n')
    assert answer.json() == {"location": "/data/uploads/my rows.jsonl"}
    (file,) = uploads(home)
    assert file.read_bytes().startswith(b'{"prompt"') and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert upload(browser, "my rows.jsonl", b"{}").status_code == 413, "it takes no other one's place"


BAD_NAMES = [
    "../x.jsonl",
    "a/b.jsonl",
    "a\\b.jsonl",
    ".jsonl",
    ".x.jsonl",
    "x.jsonl\0",
    "CON.jsonl",
    "x.jsonl.",
    "~x.jsonl",
    "C:x.jsonl",
    "x\n.jsonl",
    "x" * 200 + ".jsonl",
    " x.jsonl",
    "",
]


@pytest.mark.parametrize(
    "name", [*BAD_NAMES, "x.pkl", "x.bin", "x.html", "x.svg", "x.exe", "x.zip", "x.tar.gz", "x", "x.jsonl.html"]
)
def test_names_that_are_not_those_of_data_are_refused(browser, home, name):
    assert upload(browser, name, b"{}\n").status_code == 413
    assert uploads(home) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("x.jsonl", b"\x80\x04\x95\0\0"), ("x.csv", b"MZ\0\0\0"), ("x.parquet", b"{}"), ("x.jsonl.gz", b"{}")),
        *(("x.jsonl.zst", b"\x1f\x8b"), ("x.json", b"<html><script>alert(1)</script>"), ("x.jsonl", b"GIF89a<svg>")),
    ],
)  # fmt: skip
def test_content_must_be_what_the_name_says(browser, home, name, content):
    assert upload(browser, name, content).status_code == 413
    assert uploads(home) == []


def test_an_upload_ends_at_its_limit(home):
    site = Site.of(UiConfig(port=PORT, upload_limit=1e-5), PORT)  # 10 kB
    client = TestClient(create_app(site), base_url=ADDRESS, headers={"origin": ADDRESS})
    client.cookies.set(site.cookie, site.sessions.begin(), domain="127.0.0.1")
    assert upload(client, "big.jsonl", b'{"a": 1}\n' * 2000).status_code == 413

    def endless():
        for _ in range(100_000):
            yield b'{"a": 1}\n' * 100

    assert upload(client, "endless.jsonl", endless()).status_code == 413
    assert uploads(home) == [], "no part of it is left"


def test_a_slow_upload_is_ended_and_leaves_nothing(server, app, home, monkeypatch):
    monkeypatch.setattr("bp_ui.uploads._IDLE_SECONDS", 0.3)
    site = app.state.site
    object.__setattr__(site, "origins", frozenset([f"http://127.0.0.1:{server}"]))
    connection = http.client.HTTPConnection("127.0.0.1", server, timeout=10)
    connection.putrequest("POST", "/upload?name=slow.jsonl")
    for name, value in (
        ("Origin", f"http://127.0.0.1:{server}"),
        ("Content-Type", "application/octet-stream"),
        ("Content-Length", "1000"),
    ):
        connection.putheader(name, value)
    connection.putheader("Cookie", f"{site.cookie}={site.sessions.begin()}")
    connection.endheaders()
    connection.send(b'{"a"')
    answer = connection.getresponse()
    assert answer.status == 413 and b"nothing arrived" in answer.read()
    connection.close()
    assert uploads(home) == [] and app.state.uploading is False


def test_one_upload_at_a_time(browser, app, home):
    app.state.uploading = True
    assert upload(browser, "x.jsonl", b"{}\n").status_code == 413


def test_what_was_uploaded_is_never_given_back_as_a_page(browser, home, app):
    upload(browser, "x.md", b"<script>alert(1)</script>\n")
    page = browser.get("/data/uploads/x.md")
    assert page.headers["content-type"].startswith("text/html") and "<script>alert" not in page.text
    assert all("/uploads" not in getattr(route, "path", "") for route in app.routes)


def test_a_report_is_a_file_to_keep(browser, run):
    (run.path / "report.html").write_text("<script>alert(1)</script>", encoding="utf-8")
    answer = browser.get(f"/runs/{run.id}/report")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize("body", [b"[]", b"{", b"null", b"1", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_an_error_not_a_failure(browser, body):
    assert browser.post("/train", content=body, headers=JSON).status_code == 400


def test_a_large_request_is_refused(browser):
    assert browser.post("/train", content=b" " * (2 << 20), headers=JSON).status_code == 413


EVIL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</textarea><script>alert(1)</script>",
    "javascript:alert(1)",
    '"><svg onload=alert(1)>',
    "{{ 7 * 7 }}",
]


@pytest.mark.parametrize("evil", EVIL)
def test_markup_in_names_notes_and_errors_is_text(browser, home, tmp_path, evil):
    run = written_run(tmp_path / "work" / "output", name=evil, status="failed")
    run.write(error={"code": "RUNTIME_GPU_OOM", "message": evil, "where": evil, "fix": evil})
    browser.post(f"/runs/{run.id}/note", json={"note": evil})
    (tmp_path / "work" / "x.jsonl").write_text("{}", encoding="utf-8")
    for path in (
        "/runs",
        f"/runs/{run.id}",
        f"/runs/{run.id}/records",
        f"/compare?a={run.id}&b={run.id}",
        f"/train?model={evil}",
    ):
        text = browser.get(path).text
        assert (
            "<script>alert" not in text
            and "<img src=x" not in text
            and "<svg onload" not in text
            and ">49<" not in text
        )
        assert not re.search(r'href="\s*javascript:', text)


def test_signs_that_turn_the_text_around_are_shown(browser, home, tmp_path):
    run = written_run(tmp_path / "work" / "output", name="evil\u202egnp.exe\x1b[31m")
    text = browser.get(f"/runs/{run.id}").text
    assert "\u202e" not in text and "U+202E" in text and "\x1b" not in text and "␛" in text


BAD_WORDS = [
    "; rm -rf /",
    "$(id)",
    "`id`",
    "--output=/etc",
    "-x",
    "a\nb",
    "http://169.254.169.254/",
    "file:///etc/passwd",
    "https://evil.test/model",
    "../../etc",
    "/etc",
]


@pytest.mark.parametrize("name", BAD_WORDS)
def test_a_model_is_a_name_and_never_an_address_or_an_option(browser, app, rows, name):
    body = {"data": "here/rows.jsonl", "settings": {"model": name}}
    answer = browser.post("/train", json=body)
    assert answer.status_code in (400, 404), answer.json()
    assert browser.post("/models/get", json={"model": name}).status_code in (400, 404)
    assert app.state.site.jobs.all() == []


@pytest.mark.parametrize("name", [*BAD_WORDS, "a b", "", "x" * 300])
def test_names_for_others_are_names(browser, app, run, name):
    assert browser.post(f"/runs/{run.id}/push", json={"repo": name}).status_code == 400
    if name:
        body = {"settings": {"ollama_name": name}}
        answer = browser.post(f"/runs/{run.id}/export", json=body)
        assert answer.status_code == 400, answer.json()
    assert app.state.site.jobs.all() == []


@pytest.mark.parametrize(
    "settings",
    [
        {"output": "/etc/x"},
        {"output": "../outside"},
        {"eval_data": "/etc/passwd"},
        {"trust_remote_code": True},
        {"rank": "nan"},
        {"rank": [1]},
        {"backend": "evil"},
        {"optimizer": "pickle"},
        {"model": {"a": 1}},
        {"__class__": "x"},
    ],
)
def test_settings_are_checked_as_on_the_command_line(browser, app, rows, settings):
    answer = browser.post("/train", json={"data": "here/rows.jsonl", "settings": settings})
    assert answer.status_code in (400, 404) and answer.json()["error"]["fix"]
    assert app.state.site.jobs.all() == []


def test_ollama_has_no_address_in_any_form(browser, run):
    settings = {"ollama_host": "http://169.254.169.254"}
    assert browser.post(f"/runs/{run.id}/export", json={"settings": settings}).status_code == 400


def test_secrets_do_not_reach_the_disk_or_the_page(browser, app, run, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "sesame-open-please")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 34)
    browser.post(f"/runs/{run.id}/note", json={"note": "sesame-open-please"})
    told = browser.get(f"/runs/{run.id}").text + browser.get("/system").text + browser.get("/system/diagnostics").text
    assert "sesame" not in told and "hf_aaaa" not in told and "✓ there" in told
    job = app.state.site.jobs._create("check", "sesame-open-please", {"file": "sesame-open-please"}, Path.cwd())
    assert "sesame" not in (job.folder / "job.json").read_text(encoding="utf-8")


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


def posts(app):
    """The addresses that change something, with names in them that there are not."""
    names = {"run": "20260101-000000-abcd", "job": "20260101-000000-abcd"}
    found = [route.path for route in app.routes if isinstance(route, Route) and "POST" in route.methods]
    return [re.sub(r"\{(\w+)[^}]*\}", lambda match: names[match[1]], path) for path in found]


def filled(path, run):
    names = {"run": run.id, "job": "20260101-000000-abcd", "address": "here/rows.jsonl"}
    return re.sub(r"\{(\w+)[^}]*\}", lambda match: names[match[1]], path)
