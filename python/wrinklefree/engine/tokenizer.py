"""Text to token ids and back, from a model directory or a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from wrinklefree.engine.gguf_tokenizer import build_tokenizer, special_id
from wrinklefree.errors import FormatError

# Control tokens that end a turn in chat models whose GGUF files name only one end token.
_END_OF_TURN = frozenset(
    {"<|im_end|>", "<|eot_id|>", "<|end|>", "<|endoftext|>", "<end_of_turn>", "<|eom_id|>"}
)
_SPACE = "\u2581"


class Tokenizer:
    """A tokenizer with the ids a generation loop needs: of `eos_ids` the first is the tokenizer's
    own. Safe to use from several threads."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_id: int | None,
        eos_ids: Iterable[int],
        chat_template: str | None,
    ) -> None:
        self._backend = backend
        backend.encode_special_tokens = True
        self._added = backend.get_added_tokens_decoder()
        self._special = frozenset(i for i, token in self._added.items() if token.special)
        self._is_byte_level = isinstance(backend.decoder, tokenizers.decoders.ByteLevel)
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self.bos_id = bos_id
        self.eos_ids = tuple(dict.fromkeys(eos_ids))
        self.chat_template = chat_template

    @classmethod
    def from_dir(cls, path: str | Path) -> Tokenizer:
        """Reads tokenizer.json with tokenizer_config, generation_config and config.json beside it.

        Raises FormatError when tokenizer.json is missing or broken.
        """
        path = Path(path)
        file = path / "tokenizer.json"
        if not file.exists():
            raise FormatError(f"{path}: no tokenizer.json")
        backend = read_backend(file)
        settings = read_json(path / "tokenizer_config.json")
        eos_ids = _named_ids(backend, settings, "eos_token")
        for config in ("generation_config.json", "config.json"):
            eos_ids += _ids(read_json(path / config).get("eos_token_id"))
        bos = _named_ids(backend, settings, "bos_token")
        return cls(
            backend,
            bos_id=bos[0] if bos else None,
            eos_ids=eos_ids,
            chat_template=_chat_template(path, settings),
        )

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """Builds it from GGUF metadata; raises FormatError as `build_tokenizer` does."""
        backend = build_tokenizer(metadata)
        num_tokens = len(metadata["tokenizer.ggml.tokens"])
        ends = [special_id(metadata, name, num_tokens) for name in ("eos", "eot", "eom")]
        eos_ids = [end for end in ends if end is not None]
        for index, token in sorted(backend.get_added_tokens_decoder().items()):
            if token.special and token.content in _END_OF_TURN:
                eos_ids.append(index)
        template = metadata.get("tokenizer.chat_template")
        return cls(
            backend,
            bos_id=special_id(metadata, "bos", num_tokens),
            eos_ids=eos_ids,
            chat_template=template if isinstance(template, str) else None,
        )

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids. `add_special`: with what the tokenizer puts around a text (BOS).
        `parse_special`: control tokens spelled in the text become those tokens; otherwise they
        stay text."""
        backend = self._parsing_backend if parse_special else self._backend
        return _encode(backend, text, add_special=add_special)

    def encode_after_control_token(self, text: str) -> list[int]:
        """Token ids of text inside of a longer one, where no start token belongs and, with some
        tokenizers, no space before the first word."""
        return _encode(self._continuing_backend, text, add_special=False)

    @cached_property
    def _parsing_backend(self) -> tokenizers.Tokenizer:
        """A copy, as this is a setting that must not change while another thread encodes."""
        copy = tokenizers.Tokenizer.from_str(self._backend.to_str())
        copy.encode_special_tokens = False
        return copy

    @cached_property
    def _continuing_backend(self) -> tokenizers.Tokenizer:
        """A copy for which no word is the first, where that makes a difference."""
        rule = self._backend.pre_tokenizer
        before = b"" if rule is None else rule.__getstate__()
        after = before.replace(b'"prepend_scheme":"first"', b'"prepend_scheme":"never"')
        if before == after:
            return self._backend
        copy = tokenizers.Tokenizer.from_str(self._backend.to_str())
        copy.encode_special_tokens = True
        rule = copy.pre_tokenizer
        rule.__setstate__(after)
        copy.pre_tokenizer = rule
        return copy

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of a whole sequence; SentencePiece's leading space is dropped."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def is_special(self, token_id: int) -> bool:
        """True for control tokens, which have no text."""
        return token_id in self._special

    def strips(self, token_id: int) -> tuple[bool, bool]:
        """Whether the token, spelled in a text, takes in white space before and after it."""
        added = self._added.get(token_id)
        return (added.lstrip, added.rstrip) if added else (False, False)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Spelling and id of each control token."""
        return {self.token(index): index for index in sorted(self._special)}

    def token(self, token_id: int) -> str:
        """The vocabulary's own spelling; "" for a padding row that has no token."""
        return self._backend.id_to_token(token_id) or ""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token adds to the text."""
        token = self.token(token_id)
        if token_id in self._added:
            return token.encode()
        if self._is_byte_level:
            return b"".join(bytes((_BYTE_OF[c],)) if c in _BYTE_OF else c.encode() for c in token)
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes((int(token[3:5], 16),))
        return token.replace(_SPACE, " ").encode()


def _encode(backend: tokenizers.Tokenizer, text: str, *, add_special: bool) -> list[int]:
    text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates have no bytes
    # NOTE: encode holds the interpreter lock, for seconds where the text has megabytes.
    (encoding,) = backend.encode_batch_fast([text], add_special_tokens=add_special)
    ids: list[int] = encoding.ids
    return ids


def read_backend(file: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a tokenizer.json, for whole texts. Raises FormatError for a broken file."""
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises its base class
        raise FormatError(f"{file}: {error}") from error
    # transformers stores what its last call asked for: a training script's cut to 512 tokens, say.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones are themselves, the others start at U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    letters.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    return letters


_BYTE_OF = _byte_alphabet()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty if there is no file; raises FormatError for a damaged one."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: not a JSON object")
    return value


def _ids(value: object) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, int)]


def _named_ids(backend: tokenizers.Tokenizer, settings: Mapping[str, Any], key: str) -> list[int]:
    token = settings.get(key)
    content = token.get("content") if isinstance(token, dict) else token
    index = backend.token_to_id(content) if isinstance(content, str) else None
    return [] if index is None else [index]


def _chat_template(path: Path, settings: Mapping[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # named templates
        named = {item.get("name"): item.get("template") for item in template}
        template = named.get("default")
    return template if isinstance(template, str) else None
