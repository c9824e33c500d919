"""What the screens say: all settings in the form, command lines that are right, errors with what helps."""

import html
import re
import shlex

import pytest
from page_runs import written_run
from typer.main import get_command

from backpropagate.cli.app import app as command_line
from bp_core.config import TrainConfig
from bp_core.settings import settings
from bp_multirun.record import Entry, Record, Score
from bp_ui.screens.train import _chosen
from bp_ui.screens.train import command_line as same_command

HTML = {"accept": "text/html"}
SCREENS = ["/runs", "/runs/list", "/data", "/train", "/chat", "/models", "/system", "/compare"]


@pytest.mark.parametrize("screen", SCREENS)
def test_every_screen_is_there_with_nothing_yet(browser, screen):
    assert browser.get(screen).status_code == 200


def test_every_setting_of_a_training_is_in_the_form_with_its_help(browser):
    page = browser.get("/train").text
    names = {setting.name for setting in settings(TrainConfig)}
    controls = set(re.findall(r'<(?:input|select)[^>]*\bname="(\w+)"', page)) - {"data"}
    assert controls == names
    told = html.unescape(page)
    assert all(setting.help in told for setting in settings(TrainConfig))


def test_every_tab_of_a_run_is_there(browser, run):
    for tab in ("", "/evaluate", "/export", "/push", "/records"):
        page = browser.get(f"/runs/{run.id}{tab}")
        assert page.status_code == 200 and "bakery" in page.text
    assert "for a model 576 wide" in browser.get(f"/runs/{run.id}/records").text


def test_a_run_that_failed_says_what_helps_and_how_to_go_on(browser, tmp_path):
    run = written_run(tmp_path / "work" / "output", status="failed")
    run.write(error={"code": "RUNTIME_GPU_OOM", "message": "it did not fit", "where": None, "fix": "take less"})
    page = browser.get(f"/runs/{run.id}").text
    assert all(words in page for words in ("RUNTIME_GPU_OOM", "it did not fit", "take less", f"resume {run.id}"))
    assert not re.search(r'id="resume"[^>]* hidden', page) and re.search(r'id="pause"[^>]* hidden', page)


def test_runs_are_found_by_what_they_are_called(browser, tmp_path):
    written_run(tmp_path / "work" / "output", name="bakery")
    written_run(tmp_path / "work" / "output", name="tickets", status="failed")
    assert "tickets" not in browser.get("/runs/list?text=bak").text
    assert "bakery" not in browser.get("/runs/list?status=failed").text
    assert "No run is like that" in browser.get("/runs/list?text=nothing").text


def test_a_wish_for_a_run_that_has_ended_is_an_error(browser, run):
    answer = browser.post(f"/runs/{run.id}/wish", json={"wish": "pause"})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "INPUT_RUN_NOT_RUNNING"


@pytest.mark.parametrize(
    "given",
    [
        {"rank": "4", "learning_rate": "1e-3", "packing": "true", "name": "a b; c"},
        {"activation_checkpointing": "false", "held_out": "0.1", "dtype": "float32"},
        {"method": "orpo", "beta": "0.2", "columns": "prompt=question"},
    ],
)
def test_the_command_gives_the_same_settings(browser, app, rows, given):
    config, data = _chosen(app.state.site, app.state.runs, {"data": "here/rows.jsonl", "settings": given})
    words = shlex.split(same_command(config, data))
    words = words[words.index("backprop") + 1 :]
    assert words[:3] == ["train", "--data", "rows.jsonl"]
    root = get_command(command_line)
    train = root.get_command(root.context_class(root), "train")
    parsed = train.make_context("train", words[1:]).params
    assert {name: parsed[name] for name in vars(config)} == vars(config)


def test_errors_of_the_form_name_the_setting(browser, rows):
    answer = browser.post("/train/plan", json={"data": "here/rows.jsonl", "settings": {"rank": "0", "dropout": "2"}})
    message = answer.json()["error"]["message"]
    assert "rank is 0" in message and "dropout is 2" in message


def test_what_is_not_there_is_a_page_with_a_way_on(browser):
    page = browser.get("/nothing", headers=HTML)
    assert page.status_code == 404 and "To the runs" in page.text


def test_two_runs_are_compared(browser, tmp_path):
    first = written_run(tmp_path / "work" / "output", name="one", steps=20)
    second = written_run(tmp_path / "work" / "output", name="two", steps=30)
    page = browser.get(f"/compare?a={first.id}&b={second.id}").text
    assert "one" in page and "two" in page and re.search(r"<td>steps</td><td[^>]*>20</td><td[^>]*>30</td>", page)


def test_a_session_of_stages_shows_what_was_forgotten(browser, tmp_path):
    run = written_run(tmp_path / "work" / "output" / "multi-run" / "stage-0002", name="second")
    scores = {"1": Score([20.0], [10.0]), "2": Score([30.0], [10.0])}
    first = {"1": Score([5.0], [10.0])}
    second = {"1": Score([25.0], [10.0]), "2": Score([10.0], [10.0])}
    one = Entry("cats", "a", True, None, scores, first, first)
    two = Entry("dogs", "b", True, 2.0, scores, second, second)
    folder = tmp_path / "work" / "output" / "multi-run" / "state-0002"
    folder.mkdir(parents=True)
    Record({}, (one, two)).write(folder)
    page = browser.get(f"/stages/{run.id}").text
    assert re.search(r'class="num fallen-3">0.5 <span>-1.5</span>', page)
    assert re.search(r'class="num risen-1">2.5 <span>\+0.5</span>', page)
    assert f"/stages/{run.id}" in browser.get(f"/runs/{run.id}").text


def test_a_run_by_itself_has_no_stages(browser, run):
    assert browser.get(f"/stages/{run.id}").status_code == 404
