"""The data of the quickstart, which come with the package."""

from __future__ import annotations

from pathlib import Path

EXAMPLE_DATA = Path(__file__).with_name("quickstart.jsonl")  # a bakery's assistant: rows of questions and answers
