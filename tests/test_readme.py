"""What a visitor sees first: the README, its translations, and the files that a repository is expected to have."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from bp_plan.memory import GIB

ROOT = Path(__file__).parent.parent
LANGUAGES = ("es", "fr", "hi", "it", "ja", "pt", "zh")
TRANSLATED_UP_TO = "## What fits where"


def english():
    """The part of the README that is translated."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text[: text.index(TRANSLATED_UP_TO)]


def translation(language):
    return (ROOT / "docs" / "readme" / f"README.{language}.md").read_text(encoding="utf-8")


def blocks(text):
    return re.findall(r"^```\w*\n.*?^```", text, re.M | re.S)


def keys(text):
    """The keys of each row of the table of formats, in order."""
    table = [line for line in text.splitlines() if line.startswith("| ")][-7:]
    return [re.findall(r"`([a-z_]+)`", line.split("|")[2]) for line in table]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_the_same_blocks_headings_points_and_keys(language):
    text = translation(language)
    assert blocks(text) == blocks(english())
    for mark in ("## ", "* **", "!["):
        count = english().count(f"\n{mark}")
        assert text.count(f"\n{mark}") == count, mark
    for ours, theirs in zip(keys(english()), keys(text), strict=True):
        assert set(ours) <= set(theirs) | {"question", "answer"}, (ours, theirs)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_readme_and_all_translations_lead_to_each_other(language):
    assert f"(docs/readme/README.{language}.md)" in english()
    assert {f"(README.{other}.md)" for other in LANGUAGES if other != language} <= set(
        re.findall(r"\([^)]+\)", translation(language))
    )


def test_what_fits_a_card_of_16_gb_is_what_the_estimate_says(capsys):
    (words,) = re.findall(r"`backprop (estimate-vram [^`]+)`", english().split("## ")[0])
    assert exit_code_of(app, [*words.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"]["mode"] == "qlora" and found["recipe"]["max_length"] == 2048
    needed = f"{found['preflight']['memory']['total'] / GIB:.1f}"
    for text in (english(), *map(translation, LANGUAGES)):
        (line,) = re.findall(r"^.*QLoRA.*(?:\n  .*)*", text, re.M)
        assert {words.split()[-1], needed, "16", "2048"} <= set(re.findall(r"[\d.]+\d", line)), line


def table(text, after):
    """The first table behind a heading or a line, as rows of cells."""
    lines = text[text.index(after) :].split("\n\n|", 1)[1].split("\n\n")[0].splitlines()
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def test_what_fits_which_card_is_what_the_table_of_modes_says():
    cards, _, *modes = table((ROOT / "docs" / "models.md").read_text(encoding="utf-8"), "## Which mode is chosen")
    _, _, *shown = table((ROOT / "README.md").read_text(encoding="utf-8"), TRANSLATED_UP_TO)
    for card, *presets in shown:
        column = cards.index(card)
        for mode, preset in zip(("lora", "qlora"), presets, strict=True):
            fitting = [row[0] for row in modes if row[column].rstrip("+") == mode]
            assert preset == (fitting[-1] if fitting else "not needed"), (card, mode)


PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs" / "readme").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_the_citation_names_the_version_that_is_published():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"] and citation["license"] == project["license"]
    assert citation["repository-code"] == project["urls"]["Repository"]


def test_the_forms_for_issues_ask_for_what_info_says():
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) == 2
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= form.keys()
        fields = {field.get("id"): field for field in form["body"]}
        assert "backprop info" in fields["info"]["attributes"]["label"]
