"""What the screens say: all settings in the form, command lines that are right, errors with what helps."""

import html
import json
import re
import shlex

import pytest
from page_runs import written_run
from typer.main import get_command

from backpropagate.cli.app import app as command_line
from bp_core.config import TrainConfig
from bp_core.settings import settings
from bp_multirun.config import MultiRunConfig
from bp_multirun.record import Entry, Record, Score
from bp_runs import Claim
from bp_ui.screens import multi_run, train
from bp_ui.session_folder import stage_name, target_of

HTML = {"accept": "text/html"}
SCREENS = ["/runs", "/runs/list", "/data", "/train", "/train/stages", "/chat", "/models", "/system", "/compare"]


@pytest.mark.parametrize("screen", SCREENS)
def test_every_screen_is_there_with_nothing_yet(browser, screen):
    assert browser.get(screen).status_code == 200


@pytest.mark.parametrize(
    ("screen", "kinds"), [("/train", [TrainConfig]), ("/train/stages", [MultiRunConfig, TrainConfig])]
)
def test_every_setting_of_a_training_is_in_the_form_with_its_help(browser, screen, kinds):
    page = browser.get(screen).text
    declared = [setting for kind in kinds for setting in settings(kind)]
    controls = re.findall(r'<(?:input|select)[^>]*\bname="(\w+)"', page)
    assert sorted(set(controls) - {"data"}) == sorted(setting.name for setting in declared)
    told = html.unescape(page)
    assert all(setting.help in told for setting in declared)


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
    body = {"data": "here/rows.jsonl", "settings": given}
    config, data = train.read_form(app.state.site, app.state.runs, body)
    words, parsed = typed(train.command_line(config, data))
    assert words[:3] == ["train", "--data", "rows.jsonl"]
    assert {name: parsed[name] for name in vars(config)} == vars(config)


def typed(line):
    """The words of a command line, and what the command line makes of them."""
    words = shlex.split(line)
    words = words[words.index("backprop") + 1 :]
    root = get_command(command_line)
    command = root.get_command(root.context_class(root), words[0])
    return words, command.make_context(words[0], words[1:]).params


@pytest.mark.parametrize(
    "given",
    [
        {"merge": "ties", "density": "0.3", "rank": "4"},
        {"schedule": "constant", "weight": "0.25", "gate": "0.1", "name": "a b"},
        {"runs": "3", "samples": "4", "replay": "0.5"},
    ],
)
def test_the_command_of_stages_gives_the_same_settings(browser, app, rows, given):
    data = ["here/rows.jsonl"] if "runs" in given else ["here/rows.jsonl", "example"]
    config, multi, data = multi_run.read_form(app.state.site, app.state.runs, {"data": data, "settings": given})
    words, parsed = typed(multi_run.command_line(config, multi, data))
    assert words[:3] == ["multi-run", "--data", "rows.jsonl"] and parsed["data"] == [
        "rows.jsonl",
        *map(str, data[1:]),
    ]
    for chosen in (config, multi):
        assert {name: parsed[name] for name in vars(chosen)} == vars(chosen)


def test_errors_of_stages_name_the_setting(browser, rows):
    settings = {"rank": "0", "density": "0.5"}
    answer = browser.post("/train/stages/plan", json={"data": ["here/rows.jsonl"], "settings": settings})
    assert "rank is 0" in answer.json()["error"]["message"]
    answer = browser.post("/train/stages/command", json={"data": ["here/rows.jsonl"], "settings": {"density": "0.3"}})
    assert "density is a setting of merge ties and dare" in answer.json()["error"]["message"]


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


def written_stages(session, *names):
    """The rows of a session's stages, as they are kept before the first one is trained."""
    for number, name in enumerate(names, 1):
        (session / "data" / f"{number:04d}").mkdir(parents=True)
        stage = {"name": name, "digest": "a", "rows": 12, "held_out": None, "seed": 0}
        (session / "data" / f"{number:04d}" / "stage.json").write_text(json.dumps(stage), encoding="utf-8")


def statuses(page):
    return re.findall(r'data-status="(\w+)"', page.partition('id="stages"')[2])


def test_a_session_shows_its_stages_before_the_first_is_merged(browser, tmp_path):
    session = tmp_path / "work" / "output" / "multi-run"
    written_stages(session, "cats.jsonl", "dogs.jsonl")
    run = written_run(session / "stage-0001", name="first", steps=20)
    page = browser.get(f"/stages/{run.id}").text
    assert "1: cats.jsonl" in page and "2: dogs.jsonl" in page and "20 of 20" in page
    assert statuses(page) == ["finished", "waiting"] and "Go on with the stages" in page
    with Claim(session):  # as the process that merges it does
        told = browser.get(f"/stages/{run.id}/part").json()
        assert told["open"] and statuses('id="stages"' + told["stages"]) == ["merging", "waiting"]
    assert not browser.get(f"/stages/{run.id}/part").json()["open"]


def test_a_stage_is_called_as_its_data(browser, tmp_path):
    session = tmp_path / "work" / "output" / "multi-run"
    written_stages(session, "cats.jsonl")
    assert stage_name(session / "data" / "0001" / "with-replay-0.jsonl") == "cats.jsonl"
    assert stage_name(tmp_path / "work" / "rows.jsonl") == ""


def test_a_form_begins_with_what_a_session_was_begun_with(browser, rows, tmp_path):
    output = tmp_path / "work" / "output"
    run = written_run(output / "multi-run" / "stage-0001")
    begun = {"settings": {"rank": 4, "output": str(output)}, "multi_run": {"gate": 0.5}, "data": [str(rows), "/gone"]}
    (output / "multi-run" / "settings.json").write_text(json.dumps(begun), encoding="utf-8")
    page = browser.get(f"/train/stages?from={run.id}").text
    assert re.search(r'name="rank"[^>]*value="4"', page) and re.search(r'name="gate"[^>]*value="0.5"', page)
    assert re.findall(r'<option value="([^"]*)" selected', page)[:2] == ["here/rows.jsonl", "/gone"]
    answer = browser.post("/train/stages/plan", json={"data": ["here/rows.jsonl", "/gone"], "settings": {}})
    assert answer.status_code == 404, "a stage that is gone is told, not left out"


def test_the_last_stage_stands_for_the_merged_result(browser, tmp_path):
    output = tmp_path / "work" / "output"
    first, second = (written_run(output / "multi-run" / f"stage-000{number}") for number in (1, 2))
    entries = [Entry(name, name, True, None, {}, {}, {}) for name in ("cats", "dogs")]
    (output / "multi-run" / "state-0002").mkdir()
    Record({}, tuple(entries)).write(output / "multi-run" / "state-0002")
    (output / "lora").mkdir()
    (output / "lora" / "run.json").write_text(json.dumps({"run": second.id}), encoding="utf-8")
    assert target_of(first) == first.path and target_of(second) == output
    assert "take the result of all stages" in browser.get(f"/runs/{second.id}/export").text
    (output / "lora" / "run.json").write_text(json.dumps({"run": "another"}), encoding="utf-8")
    assert target_of(second) == second.path, "another run's adapter is not taken for it"


def test_a_session_of_stages_shows_what_was_forgotten(browser, tmp_path):
    session = tmp_path / "work" / "output" / "multi-run"
    written_stages(session, "cats", "dogs")
    written_run(session / "stage-0001", name="first")
    run = written_run(session / "stage-0002", name="second")
    scores = {"1": Score([20.0], [10.0]), "2": Score([30.0], [10.0])}
    first = {"1": Score([5.0], [10.0])}
    second = {"1": Score([25.0], [10.0]), "2": Score([10.0], [10.0])}
    one = Entry("cats", "a", True, None, scores, first, first)
    two = Entry("dogs", "b", True, 2.0, scores, second, second)
    folder = tmp_path / "work" / "output" / "multi-run" / "state-0002"
    folder.mkdir(parents=True)
    Record({}, (one, two)).write(folder)
    page = browser.get(f"/stages/{run.id}").text
    assert statuses(page) == ["merged", "merged"] and "Go on with the stages" not in page
    assert re.search(r'class="num fallen-3">0.5 <span>-1.5</span>', page)
    assert re.search(r'class="num risen-1">2.5 <span>\+0.5</span>', page)
    assert f"/stages/{run.id}" in browser.get(f"/runs/{run.id}").text


def test_a_run_by_itself_has_no_stages(browser, run):
    assert browser.get(f"/stages/{run.id}").status_code == 404
