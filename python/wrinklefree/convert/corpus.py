"""Strings on which a converted tokenizer must agree with its source before it is believed."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterable

_TEXT = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.",
    "The quick brown fox jumps over the lazy dog",
    "I'm, you're, he's, we've, they'll, I'd, can't; IT'S, I'M, WE'VE",
    "def main(argv: list[str]) -> int:\n    return 0  # ok\n",
    "for (int i = 0; i < n; ++i) { sum += a[i]*b[i]; }",
    '{"key": [1, 2.5, null], "text": "a\\nb"}',
    "https://example.org/path?q=1&r=%20#frag user@example.org",
    "Ünïcödé façade naïve Ångström straße",
    "Привет, как дела? Всё хорошо.",
    "你好，世界。今天天气很好！",
    "こんにちは世界、テストです",
    "안녕하세요 세계",
    "مرحبا بالعالم ١٢٣",
    "नमस्ते दुनिया",
    "שלום עולם",
    "ไทยภาษา",
    "👩\u200d🚀 👍🏽 🇩🇪 😀😀",
    "e\u0301 a\u0308 \u212b o\u0302\u0323",
    "x²³ ½ Ⅷ ①② ٣",
    "$9.99 50% ~ ^ | \\ / @ # & * ( ) _ + = { } [ ] < > ? ! ; :",
    "non\u00a0breaking\u2003em\u200bzero\ufeffbom",
    "<s> </s> <unk> <|im_start|>user<|im_end|> <|endoftext|> <0x0A>",
)
_SPACES = (
    " ",
    "  ",
    "   leading",
    "trailing   ",
    "a  b   c    d",
    "\n",
    "\n\n\n",
    "a\n\nb\n",
    "\r\n",
    "line\r\nline\r\n",
    "\t",
    "\ttab\t\ttab",
    " \n \n ",
    "a \n b",
    "\u3000full\u3000width",
)
_LENGTHS = tuple("1234567890"[:length] for length in range(1, 11))
_MIXED_NUMBERS = (
    "3.14159",
    "1,000,000",
    "2024-11-05",
    "v1.2.3",
    "0x1F",
    "1e-5",
    "12th",
    "a1b22c333",
)
_BYTES = tuple(chr(code) for code in range(1, 256, 2))
_REPEATS = ("aaaaaaaaaaaaaaaaaaaa", "ababababab", "........", "----------", "zzz zzz zzz")

# Ranges of code points whose characters tokenizer rules treat differently.
_RANGES = {
    "ascii": (0x20, 0x7F),
    "latin": (0xA0, 0x250),
    "combining": (0x300, 0x370),
    "greek_cyrillic": (0x370, 0x530),
    "hebrew_arabic": (0x590, 0x780),
    "indic": (0x900, 0xE00),
    "thai_tibetan": (0xE00, 0x1000),
    "hangul": (0xAC00, 0xAE00),
    "kana": (0x3000, 0x3100),
    "han": (0x4E00, 0x5200),
    "punctuation": (0x2000, 0x2070),
    "symbols": (0x2070, 0x2600),
    "wide": (0xFF00, 0xFFF0),
    "emoji": (0x1F300, 0x1F650),
}
_WORDS = """
the of and to in a is that for it was on are as with his they at be this from I have or by one
don't we'll THEY'RE O'Neil it's _name camelCase snake_case HTTPServer foo.bar() x+=1; #include
<s> </s> <unk> <pad> <0x41> <|im_end|> <|endoftext|> [INST] [/INST] <<SYS>> @@ \u2581 \u0120 ##
7 42 365 1984 65536 3.14 1e9 0xFF 10:30 2024-02-29 $5 99% 1st 1,000 \u0663\u0664 \u00bd
"""
_GAPS = ("", " ", " ", " ", "  ", "    ", "\t", "\n", "\n\n", "\r\n", " \n", "\u00a0", "\u3000")
_JOINERS = ("\u0301", "\u200d", "\ufe0f", "\U0001f3fd", "\u200b", "\u0307\u0323")
_NUM_GENERATED = 900


def _generated() -> tuple[str, ...]:
    """The same texts every time: runs of characters of a few ranges, words, gaps, joiners."""
    rng = random.Random(0)
    words = _WORDS.split()
    pools = [
        [chr(code) for code in range(*bounds) if unicodedata.category(chr(code)) != "Cn"]
        for bounds in _RANGES.values()
    ]

    def piece() -> str:
        kind = rng.randrange(4)
        if kind == 0:
            return rng.choice(words)
        if kind == 1:
            return rng.choice(rng.choice(pools)) * rng.randrange(1, 12)
        run = "".join(rng.choices(rng.choice(pools), k=rng.randrange(1, 9)))
        return run + rng.choice(_JOINERS) if kind == 2 else run

    def text() -> str:
        return "".join(piece() + rng.choice(_GAPS) for _ in range(rng.randrange(1, 9)))

    return tuple(rng.choice(_GAPS) + text() for _ in range(_NUM_GENERATED))


STRINGS = (*_TEXT, *_SPACES, *_LENGTHS, *_MIXED_NUMBERS, *_REPEATS, *_BYTES, *_generated())


def around(tokens: Iterable[str]) -> tuple[str, ...]:
    """Each added token of a model alone and between words, spaces and itself."""
    forms = ("{0}", "a{0}b", "a {0} b", " {0}\n", "{0}{0}", "\u00e9{0}1")
    return tuple(form.format(token) for token in tokens for form in forms)


PROSE = """\
The harbour town woke slowly that morning. Fog lay on the water, and the first boats came in one
after another with their lamps still lit. Anna had opened the bakery at five, as she did every day
except Sunday, and by seven the shelves were full of dark bread, rolls with poppy seed and the small
round cakes that the children liked best. "You are early," she said to the old fisherman at the
door. "The sea was in no mood for us," he answered, and put three coins on the counter.

He had worked on these boats for forty years. When he was young, the nets had come up heavy in every
season; now the fish had moved north, where the water was colder, and most of the young people had
moved to the city. Still, he did not complain. He counted the days by the weather and the weeks by
the market, and in the evening he repaired what the day had broken.

In the school on the hill, the teacher was drawing a map on the board. "Where does the river begin?"
she asked. Nobody knew. A girl in the last row raised her hand and said that rivers do not begin in
one place: they begin wherever it rains. The teacher laughed, and then she thought about it for a
while, because the answer was better than the one in the book.

At noon the fog was gone. From the lighthouse one could see the whole coast, the white houses, the
railway line and the new bridge, which had cost more than anyone had planned and which everybody
used. A train crossed it on its way to the capital. It carried timber, letters, and about two
hundred people, each of whom was certain that the view was best from their own window.
"""
