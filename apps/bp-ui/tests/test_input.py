"""What is asked and sent: paths, files, names and markup of docs/page.md's table, as attacks that are tried."""

import http.client
import re
import stat
from pathlib import Path

import pytest
from page_runs import ADDRESS, JSON, PORT, written_run
from starlette.testclient import TestClient

from backpropagate.ui_config import UiConfig
from bp_core.errors import FileUnreadable
from bp_ui.app import create_app
from bp_ui.helper import rows as read_rows
from bp_ui.site import Site

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


@pytest.mark.parametrize(
    "wrong",
    [
        {"turns": []},
        {"turns": [{"role": "root", "content": "Hi"}]},
        {"turns": [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [{"function": {}}]}]},
        {"turns": [{"role": "user", "content": "x" * 100_001}]},
        {"tools": "[{"},
        {"tools": '[{"description": "no name"}]'},
        {"limit": 0},
        {"limit": "many"},
    ],
)
def test_a_conversation_and_its_tools_are_checked_before_a_model_is_opened(browser, app, wrong):
    body = {"column": "base", "model": "smollm2-135m", "turns": [{"role": "user", "content": "Hi"}], "limit": 8} | wrong
    answer = browser.post("/chat/answer", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["message"]


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
