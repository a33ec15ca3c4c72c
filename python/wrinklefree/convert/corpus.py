"""Strings on which a converted tokenizer must agree with its source before it is believed."""

from __future__ import annotations

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

STRINGS = (*_TEXT, *_SPACES, *_LENGTHS, *_MIXED_NUMBERS, *_REPEATS, *_BYTES)
