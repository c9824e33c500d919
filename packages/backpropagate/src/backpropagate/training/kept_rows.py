"""Which rows a run keeps: training rows for the importance matrix of an export, and held-out ones that it asks."""

from __future__ import annotations

from bp_data import Prepared

HELD_OUT_KEPT = 64  # held-out rows with tools or thoughts
_ROWS, _TOKENS, _LENGTH = 64, 4096, 512  # at most so many rows, tokens in all, and tokens of one row


def rows_to_keep(prepared: Prepared) -> list[list[int]]:
    """Token ids of rows spread over the data.

    Those of the proof are taken only where there are no others: measured on its own rows, a matrix would look better
    than it is.
    """
    examples = prepared.examples
    in_proof = {tuple(sample.tokens) for sample in prepared.samples}
    rows: list[list[int]] = []
    room = _TOKENS
    for number in range(0, len(examples), max(1, len(examples) // _ROWS)):
        tokens = list(examples[number].tokens)
        if tuple(tokens) in in_proof or room <= 0:
            continue
        rows.append(tokens[: min(_LENGTH, room)])
        room -= len(rows[-1])
    return rows or [list(sample.tokens) for sample in prepared.samples]
