"""Rows with the lengths of Alpaca's: short questions, answers of 60 tokens in the median and a long tail. Seeded."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

SYLLABLES = "al an ar bel bo ca cer da den di el en er fa for ga gen ha hi in ka la lem li lo ma mer mi na ne nor o pa"
SYLLABLES += " per po qua ra ren ri ro sa sel si so ta ten ti to tra u va ven vi wa wen"
COMMON = "the of and to in is that for it as was with be by on not he but at are this have from or had an they which"
COMMON += " you were all she there would their we been has when who will more no if out so said what up its about into"
COMMON += " than them can only other new some could time these two may then do first any my now such like our over most"
ODD = [
    "naïve",
    "café",
    "Zürich",
    "東京",
    "“quoted”",
    "a–b",
    "x²+y²",
    "π≈3.14",
    "👍",
    "3,000",
    "10%",
    "#tag",
    "`code()`",
]
ENDS = [".", ".", ".", ".", "!", "?", ".\n", ":\n- ", ";"]


def write(path: Path, rows: int, seed: int = 0) -> None:
    """One conversation of two turns a line, as OpenAI `messages`."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(
            json.dumps({"messages": turns}, ensure_ascii=False) + "\n" for turns in conversations(rows, seed)
        )


def conversations(rows: int, seed: int) -> Iterator[list[dict[str, str]]]:
    chance = random.Random(seed)
    words = [*COMMON.split() * 4, *(_word(chance) for _ in range(4000))]
    for _ in range(rows):
        question = _text(chance, words, chance.randint(5, 20))
        if chance.random() < 0.4:
            question += "\n\n" + _text(chance, words, chance.randint(3, 40))
        answer = _text(chance, words, min(400, math.ceil(chance.lognormvariate(math.log(34), 1.0))))
        yield [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _word(chance: random.Random) -> str:
    return "".join(chance.choice(SYLLABLES.split()) for _ in range(chance.choice([1, 2, 2, 3])))


def _text(chance: random.Random, words: list[str], count: int) -> str:
    """So many words in sentences; one word in fifty is a number, a symbol or of another script."""
    parts: list[str] = []
    while len(parts) < count:
        sentence = [chance.choice(ODD if chance.random() < 0.02 else words) for _ in range(chance.randint(4, 14))]
        sentence = sentence[: count - len(parts)]
        sentence[0] = sentence[0].capitalize()
        sentence[-1] += chance.choice(ENDS)
        parts += sentence
    return " ".join(parts).strip()
