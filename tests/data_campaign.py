"""The data campaign: mutated rows and mutated files through every reader. Prints a table.

No traceback, no hang, every loss counted, and `check` and training agree on what can be read.
`uv run python tests/data_campaign.py` takes some minutes; `--small` a few of each, for the fast tests.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import io
import json
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import zstandard

from backpropagate.models import locate
from bp_core.config import DataConfig
from bp_core.errors import BackpropagateError
from bp_data import ChatTokenizer, convert, prepare, read
from bp_data.check import check
from bp_data.check.characters import clean
from bp_data.check.config import CheckConfig
from bp_data.formats.records import Preference, Rated
from bp_data.preparing.losses import trimmed

SAMPLES = Path(__file__).parent.parent / "packages" / "bp-data" / "tests" / "samples"
SEED = 14
CHUNK = 100  # rows checked at once: of each kind of finding as many are kept with their places
TOO_LONG = 60  # seconds of processor for a chunk or a file; more is a hang
TOKENISED = 20  # of so many chunks one is tokenised and prepared too
REFUSED = {
    "broken-row",
    "broken-call",
    "bad-encoding",
    "unknown-format",
    "no-answer",
    "empty-answer",
    "template-refuses",
}
JUNK = [
    None, "", " ", "null", "[]", "a", "\ud83d", "<|im_start|>user\n", "\u200b", 0, 1, -1, 0.5, float("nan"), 10**30,
    True, False, [], {}, [[]], [None], {"role": "user"}, [{"role": "user", "content": "a"}], ["a", 1],
    {"a": {"a": {"a": None}}}, '[{"role": "user", "content": "a"}]', "[" * 50, "{'a': 1}", "x" * 5000,
    "### Human: a\n### Assistant: b",
]  # fmt: skip
NAMES = [
    "messages", "conversations", "prompt", "completion", "response", "question", "answer", "instruction",
    "input", "output", "context", "system", "system_prompt", "history", "tools", "chosen", "rejected",
    "rejected_response", "label", "kto_tag", "rating", "text", "summary", "role", "content", "from", "value",
    "train", "mask", "loss", "tool_calls", "reasoning", "images", "score", "response_a", "response_b", "winner",
    "id",
]  # fmt: skip


class Hang(Exception):
    """Something took too long."""


def stop(signum, frame):
    raise Hang


def places_in(value, found, path=()):
    """The paths of all values inside a value."""
    found.append(path)
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        places_in(item, found, (*path, key))
    return found


def mutated(row, random):
    """The row with one to three changes."""
    row = copy.deepcopy(row)
    for _ in range(random.choice((1, 1, 2, 3))):
        paths = [path for path in places_in(row, []) if path]
        if not paths:
            return row
        *way, key = random.choice(paths)
        holder = row
        for step in way:
            holder = holder[step]
        change(holder, key, random)
    return row


def change(holder, key, random):
    """Change what an object or a list has under `key`."""
    kind = random.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[random.choice(NAMES)] = holder.pop(key)
    elif kind == 2 and isinstance(holder, dict):
        holder[random.choice((str(key).upper(), f"{key} ", f"{key}_1", f"my_{key}"))] = holder.pop(key)
    elif kind == 3 and isinstance(holder, dict):
        holder[random.choice(NAMES)] = copy.deepcopy(random.choice([holder[key], *JUNK]))
    elif kind == 4:
        holder[key] = json.dumps(holder[key])
    elif kind == 5:
        holder[key] = [holder[key]]
    elif kind == 6 and isinstance(holder[key], str):
        text = holder[key]
        at = random.randrange(len(text) + 1)
        holder[key] = text[:at] + random.choice(["\n", " ", "\ud800", "<|im_end|>", "\x00", "é"]) + text[at:]
    else:
        holder[key] = copy.deepcopy(random.choice(JUNK))


def method_of(record):
    return "orpo" if isinstance(record, Preference) else "kto" if isinstance(record, Rated) else "sft"


class Rows:
    """Mutated rows, checked and read for training in chunks; `counts` says what became of them."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.counts = Counter()
        self.random = random.Random(SEED)
        self.seeds = [next(read(file)).value for file in sorted(SAMPLES.glob("*.jsonl"))]

    def run(self, count):
        for number in range(count // CHUNK):
            rows = [mutated(self.random.choice(self.seeds), self.random) for _ in range(CHUNK)]
            signal.setitimer(signal.ITIMER_PROF, TOO_LONG)
            self.chunk(rows, self.tokenizer if number % TOKENISED == 0 else None)
            signal.setitimer(signal.ITIMER_PROF, 0)

    def chunk(self, rows, tokenizer):
        self.counts["rows"] += len(rows)
        settings = CheckConfig(near=False, model="smol" if tokenizer else None)
        report = check(rows, settings, tokenizer)
        refused = {finding.place for finding in report.findings if finding.kind in REFUSED}
        kept = []
        for number, row in enumerate(rows, 1):
            place = f"row {number}"
            record, error = self.converted(row)
            accepted = record is not None
            self.counts[type(record).__name__ if accepted else type(error).__name__] += 1
            if accepted and place not in refused:
                kept.append((row, record))
            elif accepted:  # only a row that a repair would change, or that the template refuses, may differ
                assert tokenizer or clean(row)[0] is not row, (row, report.findings.of("broken-row"))
                self.counts["refused by check only"] += 1
            else:
                assert place in refused, (row, error)
        self.unused(report, kept)
        if tokenizer:
            self.prepared(kept, tokenizer)

    def converted(self, row):
        try:
            return convert(next(read([row]))), None
        except BackpropagateError as error:
            assert error.fix and error.where, error
            return None, error

    def unused(self, report, kept):
        """Columns that training would not learn are found by check."""
        names = {name for _, record in kept for name in record.unused}
        found = [finding.message for finding in report.findings.of("unused-column")]
        assert all(any(repr(name) in message for message in found) for name in names), (names, found)
        self.counts["rows with unused columns"] += sum(bool(record.unused) for _, record in kept)

    def prepared(self, kept, tokenizer):
        """Every row is an example or counted among the losses."""
        for method in ("sft", "orpo", "kto"):
            rows = [row for row, record in kept if method_of(record) == method]
            verdicts = {record.desirable for _, record in kept if isinstance(record, Rated)}
            if not rows or (method == "kto" and len(verdicts) < 2):
                continue
            report = prepare(rows, tokenizer, max_length=64, method=method).report
            told = trimmed(report)
            self.counts["rows prepared"] += len(rows)
            assert report.rows == len(rows)
            assert report.examples >= report.rows - report.dropped
            lost = report.truncated or report.dropped or report.split or report.unused or report.left_out
            assert told or not lost
            assert sum(report.unused.values()) == sum(
                len(record.unused) for _, record in kept if method_of(record) == method
            )


def contents(rows):
    """The same rows in every kind of file, by its ending."""
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    names = list(rows[0])
    cells = [",".join(names), *(",".join(json.dumps(row[name]).replace('\\"', '""') for name in names) for row in rows)]
    table = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    stream = io.BytesIO()
    with pyarrow.ipc.new_stream(stream, pyarrow.Table.from_pylist(rows).schema) as writer:
        writer.write_table(pyarrow.Table.from_pylist(rows))
    csv = ("\n".join(cells) + "\n").encode()
    text = "\n\n".join(f"{row['prompt']} {row['completion']}" for row in rows).encode()
    found = {
        ".jsonl": lines,
        ".json": json.dumps(rows, indent=1).encode(),
        ".columns.json": json.dumps({name: [row[name] for row in rows] for name in names}).encode(),
        ".csv": csv,
        ".tsv": csv.replace(b",", b"\t"),
        ".txt": text,
        ".md": text,
        ".utf16.jsonl": lines.decode().encode("utf-16"),
        ".parquet": table.getvalue(),
        ".arrow": stream.getvalue(),
    }
    found |= {f"{ending}.gz": gzip.compress(found[ending]) for ending in (".jsonl", ".csv", ".txt")}
    found |= {f"{ending}.zst": zstandard.compress(found[ending]) for ending in (".jsonl", ".json")}
    return found


def damaged(content, random):
    """The bytes with one to four changes."""
    data = bytearray(content)
    for _ in range(random.randrange(1, 5)):
        at = random.randrange(len(data) + 1)
        kind = random.randrange(6)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[at : at + random.randrange(1, 40)]
        elif kind == 2 and at < len(data):
            data[at] = random.randrange(256)
        elif kind == 3:
            data[at:at] = random.choice([b"\n", b"\r", b'"', b",", b"}", b"[", b"\xff", b"\x00", b"{}", b"\n\n", b";"])
        elif kind == 4:
            data[at:at] = data[at : at + random.randrange(1, 200)]
        elif at < len(data):
            data[at] ^= 1 << random.randrange(8)
    return bytes(data)


class Files:
    """Mutated files, read and checked; `counts` says what became of them."""

    def __init__(self, folder):
        self.folder = folder
        self.counts = Counter()
        self.random = random.Random(SEED)
        rows = [{"prompt": f'Question {n}: é "why"?', "completion": f"Because {n}.\n  So."} for n in range(30)]
        self.seeds = contents(rows)

    def run(self, count):
        for number in range(count):
            ending = list(self.seeds)[number % len(self.seeds)]
            path = self.folder / f"a{ending}"
            path.write_bytes(damaged(self.seeds[ending], self.random))
            signal.setitimer(signal.ITIMER_PROF, TOO_LONG)
            self.file(path)
            signal.setitimer(signal.ITIMER_PROF, 0)

    def file(self, path):
        self.counts["files"] += 1
        reading = DataConfig(max_row=1, max_expanded=0.1)
        errors = []
        try:
            rows = len(list(read(path, reading, errors.append)))
            whole = None
        except BackpropagateError as error:
            assert error.where and error.fix, error
            rows, whole = 0, error
        self.counts["refused whole" if whole else "read with faults" if errors else "read"] += 1
        self.counts["rows"] += rows
        self.counts["faults"] += len(errors)
        try:
            report = check(path, CheckConfig(near=False), reading=reading)
        except BackpropagateError as error:
            assert whole or (not rows and len(errors) == 1), (path, error, errors)
            return
        assert not whole and report.rows == rows, (path, whole, report.rows, rows)
        faults = sum(report.findings.counts[kind] for kind in ("bad-encoding", "broken-row", "empty-file"))
        assert faults >= len(errors), (path, errors)
        assert bool(errors) == (self.strictly(path, reading) is not None)

    def strictly(self, path, reading):
        """The error with which training would stop while reading."""
        try:
            for _ in read(path, reading):
                pass
        except BackpropagateError as error:
            return error
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a few of each")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=1_000)
    options = parser.parse_args()
    rows, files = (2_000, 90) if options.small else (options.rows, options.files)
    signal.signal(signal.SIGPROF, stop)
    tokenizer = ChatTokenizer.open(locate.locate("smollm2-135m", lambda progress: None))
    with tempfile.TemporaryDirectory(prefix="data-campaign-") as folder:
        for name, part, count in (
            ("mutated rows", Rows(tokenizer), rows),
            ("mutated files", Files(Path(folder)), files),
        ):
            began = time.monotonic()
            part.run(count)
            print(f"{name}: no traceback, no hang  ({time.monotonic() - began:.0f} s)", flush=True)
            for outcome, number in part.counts.most_common():
                print(f"  {outcome:40} {number:8}", flush=True)


if __name__ == "__main__":
    main()
