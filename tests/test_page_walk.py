"""The page from the first click to the last, in Chromium, with a real training: its server killed, reloaded, by phone.

With PAGE_PICTURES=docs/images the pictures of the docs are made.
"""

import json
import os
import shutil
import signal
import statistics
import tempfile
import time
from pathlib import Path

import pytest
from page_runs import written_run
from page_server import Looker, PageServer, chromium

from backpropagate.export.chat import speaker, user
from bp_runs import read_events

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parent.parent
PICTURES = os.environ.get("PAGE_PICTURES")
QUESTION = "When do you open?"


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to work in, with the bakery's rows, and an empty home."""
    folder = Path(tempfile.mkdtemp(prefix="bakery-")) if PICTURES else tmp_path_factory.mktemp("page")
    (folder / "work").mkdir()
    shutil.copyfile(ROOT / "examples" / "quickstart.jsonl", folder / "bakery.jsonl")
    return folder


@pytest.fixture(scope="module")
def server(place):
    server = PageServer(place / "work", place / "work" / ".backpropagate")
    yield server
    server.stop()


def come_in(look, server):
    """Start the server anew, and sign in by the address that it prints."""
    server.stop()
    look.page.goto(server.start())
    look.page.wait_for_url("**/runs")


def step_shown(look):
    """The step at which the page shows a run; 0 while it reads the run."""
    first = look.text("#where").split()[0]
    return int(first) if first.isdigit() else 0


def keep(look, name):
    """A picture for the docs: light and wide, or dark and as on a phone."""
    if not PICTURES:
        return
    folder = ROOT / PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    look.page.set_viewport_size({"width": 1280, "height": 760})
    look.page.screenshot(path=folder / f"page-{name}-light.png")
    look.page.set_viewport_size({"width": 375, "height": 812})
    look.page.emulate_media(color_scheme="dark")
    look.page.wait_for_timeout(400)
    look.page.screenshot(path=folder / f"page-{name}-dark-phone.png")
    look.page.set_viewport_size({"width": 1280, "height": 900})
    look.page.emulate_media(color_scheme="light")
    look.page.wait_for_timeout(200)


def begin(look):
    """Start what the form is for; behind a job that still writes its report."""
    look.page.click("form[data-form] button.primary")
    later = look.page.locator("button:has-text('Begin when that one ends')")
    look.until(lambda: later.count() or look.page.locator("main .job").count())
    if later.count():  # the browser notes the answer "409 Conflict", which is the right one then
        look.faults[:] = [fault for fault in look.faults if "409" not in fault]
        later.click()
        look.until(lambda: look.page.locator("main .job").count())


def steps_of(folder):
    return [event["step"] for event in read_events(folder) if event["event"] == "Stepped"]


def test_from_upload_to_chat_while_the_server_dies(browser, place, server):
    look = Looker(browser, server)
    page = look.page
    page.goto(server.start())
    page.wait_for_url("**/runs")
    assert "No run yet" in look.text("main")

    look.go("/data")
    page.set_input_files("#file", place / "bakery.jsonl")
    page.wait_for_url("**/data/uploads/bakery.jsonl*")
    look.until(lambda: page.locator("mark").count())
    assert "We open at seven" in look.text("mark >> nth=0") and "learned" in look.text("#rows")
    page.click("button[data-post='/data-check']")
    page.wait_for_url("**/jobs/**")
    look.until(lambda: page.url.startswith(f"{server.address}/data/uploads/bakery.jsonl"))
    assert "no error" in look.text("main")
    look.until(lambda: page.locator("mark").count())
    keep(look, "data")

    page.click("#use")
    page.wait_for_url("**/train?*")
    page.fill("#f-name", "bakery")
    page.fill("#f-epochs", "8")  # long enough to be paused and cut off, on a fast machine, too
    page.fill("#f-held_out", "0.15")
    look.until(lambda: "--held-out 0.15" in look.text("#command") and "--epochs 8" in look.text("#command"))
    look.until(lambda: "Memory" in look.text("#plan") and "held out" in look.text("#plan"))
    assert "Memory" in look.text("#plan") and page.locator("#row mark").count()
    assert "wide" in look.text("[data-field=learning_rate]"), "the reason stands beside the value"
    keep(look, "train")
    page.click("#start")
    page.wait_for_url("**/runs/2*", timeout=600_000)
    run = page.url.rpartition("/")[2]
    folder = place / "work" / "output" / "runs" / run
    look.until(lambda: len(steps_of(folder)) >= 4, 400)
    look.until(lambda: page.get_attribute("#tag .tag", "data-status") == "running")

    page.reload()
    look.until(lambda: step_shown(look) >= 4)
    second = Looker(browser, server)
    second.context.add_cookies(look.context.cookies())
    second.go(f"/runs/{run}")
    second.until(lambda: step_shown(second) >= 4)

    page.click("#pause")
    look.until(lambda: page.get_attribute("#tag .tag", "data-status") == "paused")
    second.until(lambda: second.page.get_attribute("#tag .tag", "data-status") == "paused")
    paused_at = steps_of(folder)[-1]
    page.wait_for_timeout(2000)
    assert steps_of(folder)[-1] == paused_at
    page.click("#continue")
    look.until(lambda: page.get_attribute("#tag .tag", "data-status") == "running")

    server.kill()
    look.until(lambda: page.locator("#offline").is_visible())
    before = steps_of(folder)[-1]
    look.until(lambda: steps_of(folder)[-1] > before + 1)
    server.start()
    look.until(lambda: not page.locator("#offline").is_visible())
    keep(look, "run")
    lags = []
    seen = -1
    end = time.monotonic() + 20
    while time.monotonic() < end and page.get_attribute("#tag .tag", "data-status") == "running":
        shown = int(look.text("#where").split()[0])
        if shown != seen >= 0:
            event = next(
                e for e in reversed(list(read_events(folder))) if e["event"] == "Stepped" and e["step"] <= shown
            )
            lags.append(time.time() - event["time"])
        seen = shown
        page.wait_for_timeout(50)
    print("lag from event to page, median s:", round(statistics.median(lags), 2) if lags else None)
    look.until(lambda: page.get_attribute("#run", "data-status") == "finished", 600)
    look.until(lambda: look.text("#where").split()[0] == look.text("#where").split()[2])
    numbers = steps_of(folder)
    assert numbers == list(range(1, len(numbers) + 1)), "no step is missing and none is twice"
    second.context.close()

    look.go(f"/runs/{run}/evaluate")
    page.fill("#f-answers", "2")
    begin(look)
    look.until(lambda: page.locator("main table").count(), 400)
    assert "perplexity" in look.text("main table") and "difference" in look.text("main table")
    keep(look, "evaluate")

    look.go(f"/runs/{run}/export")
    begin(look)
    look.until(lambda: page.locator("main .tag.ok >> text=Proven").count(), 600)
    assert page.locator("main table tbody tr").count() >= 5
    keep(look, "export")

    look.go(f"/chat?run={run}")
    page.fill("#limit", "30")
    page.fill("#message", QUESTION)
    page.keyboard.press("Enter")
    answers = [f".talk[data-column={column}] .turn:not(.user)" for column in ("base", "trained", "file")]
    look.until(lambda: page.locator("#stop").is_hidden() and all(page.locator(a).count() for a in answers), 400)
    base, trained, file = (look.text(answer) for answer in answers)
    print("base:", base, "| trained:", trained, "| file:", file)
    assert "seven" in trained.lower() and base != trained and file
    keep(look, "chat")
    with speaker(place / "work" / ".backpropagate" / "models" / "smollm2-135m") as model:
        assert model.answer([user(QUESTION)], 30, lambda text: None).strip() == base.strip(), "base is the base"

    look.go("/runs")
    look.until(lambda: "proven" in look.text("#list"))
    keep(look, "runs")
    assert look.faults == []
    assert server.errors() == []


def test_a_training_that_is_killed_is_gone_on_with(browser, place, server):
    look = Looker(browser, server)
    page = look.page
    come_in(look, server)
    look.go("/train?data=example")
    page.click("#all summary")
    page.select_option("#f-backend", "null")
    page.fill("#f-steps", "300000")
    page.fill("#f-name", "killed")
    page.fill("#f-checkpoint_every", "2000")
    page.fill("#f-output", "other")
    look.until(lambda: "--output other" in look.text("#command"))
    page.click("#start")
    page.wait_for_url("**/runs/2*", timeout=600_000)
    folder = place / "work" / "other" / "runs" / page.url.rpartition("/")[2]
    look.until(lambda: any((folder / "checkpoints").glob("step-*")))
    owner = json.loads((folder / "run.json").read_text(encoding="utf-8"))["owner"]
    os.kill(owner["pid"], signal.SIGKILL)
    look.until(lambda: page.get_attribute("#run", "data-status") == "interrupted")
    look.until(lambda: page.locator("#resume").is_visible())
    page.click("#resume")
    look.until(lambda: page.get_attribute("#run", "data-status") == "running")
    page.click("#stop")
    look.until(lambda: page.get_attribute("#run", "data-status") == "interrupted")
    assert "RUNTIME_INTERRUPTED" in look.text("main") and "checkpoint was written" in look.text("main")
    assert look.faults == []


def months(place, model):
    """The data of two stages that have nothing in common, and a model that is quick to train."""
    if not (place / "work" / "tiny").exists():
        shutil.copytree(model, place / "work" / "tiny")
    texts = {"january": "The sum of {} and one is {}.", "february": "Twice {} is the number {}."}
    for name, text in texts.items():
        rows = [{"prompt": f"{name} {n}?", "completion": text.format(n, n + 1)} for n in range(12)]
        path = place / "work" / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_stages_are_trained_from_the_form_to_the_heat_map_and_gone_on_with(browser, place, server, tiny_llama):
    months(place, tiny_llama)
    look = Looker(browser, server)
    page = look.page
    come_in(look, server)
    look.go("/train?data=here/january.jsonl")
    page.click("text=Stage after stage")
    page.wait_for_url("**/train/stages")
    page.select_option("#f-data-1", "here/january.jsonl")
    page.click("#add")
    page.select_option("#f-data-2", "here/february.jsonl")
    page.fill("#f-model", "tiny")
    page.fill("#f-steps", "4")
    page.click("#all summary")
    page.fill("#f-output", "months")
    page.fill("#f-replay", "0.5")
    look.until(lambda: "--replay 0.5" in look.text("#command") and "february" in look.text("#command"))
    look.until(lambda: "february.jsonl" in look.text("#plan"))
    assert page.locator("#plan tbody tr").count() == 2 and "Memory" in look.text("#plan")
    keep(look, "train-stages")
    page.click("#start")
    page.wait_for_url("**/stages/2*", timeout=600_000)
    look.until(lambda: page.locator("#stages tbody tr").count() >= 2)
    assert page.get_attribute("#stages", "data-open") == "yes"
    look.until(lambda: page.get_attribute("#stages", "data-open") == "", 600)
    shown = page.locator("#stages tbody .tag").all()
    assert [one.get_attribute("data-status") for one in shown] == ["merged", "merged"]
    assert page.locator("table.heat tbody tr").count() == 2 and "after february.jsonl" in look.text("table.heat")
    keep(look, "stages")

    # A month later: what was begun stands in the form, and one stage more goes on from there.
    page.click("text=Add a stage, or change settings")
    page.wait_for_url("**/train/stages?from=*")
    assert page.input_value("#f-data-2") == "here/february.jsonl" and page.input_value("#f-output") == "months"
    page.click("#add")
    page.select_option("#f-data-3", "example")
    look.until(lambda: page.locator("#plan tbody tr").count() == 3)
    page.click("#start")
    page.wait_for_url("**/stages/2*", timeout=600_000)
    look.until(lambda: page.locator("table.heat tbody tr").count() == 3, 600)
    look.until(lambda: page.get_attribute("#stages", "data-open") == "", 600)
    stages = sorted((place / "work" / "months" / "multi-run").glob("stage-*/runs/*"))
    assert len(stages) == 3, "nothing was trained twice"

    look.go(f"/runs/{stages[-1].name}/export")
    assert "the result of all stages" in look.text("main")
    look.go(f"/runs/{stages[0].name}/export")
    assert "this stage alone" in look.text("main")
    assert look.faults == []
    assert server.errors() == []


def test_stages_that_are_stopped_are_gone_on_with(browser, place, server, tiny_llama):
    months(place, tiny_llama)
    look = Looker(browser, server)
    page = look.page
    come_in(look, server)
    look.go("/train/stages?data=here/january.jsonl&data=here/february.jsonl")
    page.fill("#f-model", "tiny")
    page.fill("#f-steps", "3000")
    page.click("#all summary")
    page.fill("#f-output", "stopped")
    look.until(lambda: "--output stopped" in look.text("#command") and page.locator("#plan tbody tr").count() == 2)
    page.click("#start")
    page.wait_for_url("**/stages/2*", timeout=600_000)
    page.click("text=Stop the stages")
    look.until(lambda: page.locator("text=Go on with the stages").count(), 120)
    assert "RUNTIME_INTERRUPTED" in look.text("main") and "--resume stopped" in look.text("main")
    page.click("text=Go on with the stages")
    page.wait_for_url("**/jobs/2*")
    page.wait_for_url("**/stages/2*", timeout=600_000)
    page.click("text=Stop the stages")
    look.until(lambda: page.locator("text=Go on with the stages").count(), 120)
    assert look.faults == []


def runs_in(place, output, monkeypatch):
    """The ids of the runs below a folder; one is written there if none was trained, so that a test can stand alone."""
    monkeypatch.setenv("BACKPROPAGATE_HOME", str(place / "work" / ".backpropagate"))
    if not (place / "work" / output).exists():
        written_run(place / "work" / output, name=output, status="failed" if output == "other" else "finished")
    return [path.name for path in (place / "work" / output / "runs").iterdir()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_every_screen_is_for_everybody(browser, place, server, scheme, width, monkeypatch):
    """axe-core finds nothing, nothing sticks out sideways, nothing is fetched from elsewhere."""
    look = Looker(browser, server, color_scheme=scheme, viewport={"width": width, "height": 900})
    page = look.page
    server.stop()
    address = server.start()
    faults = {}

    def check(name):
        found = look.axe()
        wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
        if found or wide:
            faults[name] = [*found, *(["it must be scrolled sideways"] if wide else [])]

    look.go("/sign-in")
    check("sign-in")
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_url("**/runs")
    runs = runs_in(place, "output", monkeypatch)
    others = runs_in(place, "other", monkeypatch)
    run = f"/runs/{runs[0]}"
    jobs = sorted((place / "work" / ".backpropagate").glob("jobs/2*"))
    uploads = place / "work" / ".backpropagate" / "uploads"
    shutil.copyfile(place / "bakery.jsonl", uploads / "bakery.jsonl")
    screens = ["/runs", "/data", "/data/uploads/bakery.jsonl", "/train", "/chat", "/models", "/system", "/nothing"]
    screens += [run, f"{run}/evaluate", f"{run}/export", f"{run}/push", f"{run}/records", f"/runs/{others[0]}"]
    stages = sorted((place / "work" / "months" / "multi-run").glob("stage-*/runs/*"))
    screens += ["/train/stages?data=example&data=example", *(f"/stages/{one.name}" for one in stages[-1:])]
    screens += [f"/compare?a={runs[0]}&b={others[0]}", *(f"/jobs/{job.name}" for job in jobs[:1])]
    waits = {
        "/data/uploads/bakery.jsonl": "mark",
        "/train": "#row mark",
        "/models": "#models table",
        "/system": "#backends table",
    }
    for screen in screens:
        look.go(screen)
        if screen in waits:
            look.until(lambda selector=waits[screen]: page.locator(selector).count())
        page.wait_for_timeout(400)
        for details in page.locator("details").all():
            details.evaluate("element => element.open = true")
        check(screen)
    assert faults == {}, json.dumps(faults, indent=1)
    assert [fault for fault in look.faults if "404" not in fault] == []
