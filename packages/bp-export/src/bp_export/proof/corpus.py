"""A fixed, varied text on which two tokenizers must agree. In Unicode normal form C, as llama.cpp expects it."""

TEXTS = (
    "Hello, world! It's a test: we'll see, they've said; I'm sure you'd agree. DON'T SHOUT, IT'S RUDE.",
    "In 1969 it cost $3.50, by 2024 1,234,567.89 — a rise of 12.5% (or ½, ³, ٤٢). Call +1-555-0100 at 08:15.",
    "def area(r: float) -> float:\n\treturn math.pi * r ** 2  # m²\n\n\nif __name__ == '__main__':\n\tprint(area(2))\n",
    '{"name": "Zoë", "tags": ["a", "b"], "n": null, "path": "C:\\\\temp\\\\new"}\r\n<p class="x">A&amp;B</p>',
    "  leading, trailing  \n\n \n   \t\t mixed   runs    of     white space \n\n\n",
    "Crème brûlée, naïve façade, Straße, Ærøskøbing, Łódź, İstanbul, smörgåsbord, ﬁne ligature, ÀÉÎÕÜ.",
    "Быстрая лиса. Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم. გამარჯობა.",
    "नमस्ते दुनिया. สวัสดีชาวโลก.",  # with combining marks
    "你好,世界。今日はとても良い天気ですね!한국어 문장도 하나. 全角123ABC。",
    "🎉👩\u200d👩\u200d👧🇫🇷👍🏽 emoji, zero\u200bwidth, non\u00a0breaking, soft\u00adhyphen, \u2028line, ∑∫√≠≈, ←→↔.",
    "aaaaaaaaaaaaaaaaaaaaaaaa !!!!!!!!???...___---===+++ http://example.org/a_b-c?d=e&f=%20#g user@example.com #tag",
    "",
    " ",
    "\n",
)
