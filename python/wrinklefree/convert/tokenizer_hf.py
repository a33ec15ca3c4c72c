"""The tokenizer keys of a GGUF file as Hugging Face tokenizer files, without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wrinklefree.engine.gguf_tokenizer import build_tokenizer, num_tokens, special_id

# Hugging Face's name of a special token, GGUF's.
_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def write_tokenizer(metadata: Mapping[str, Any], directory: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and the chat template, if there is one.

    Raises FormatError for missing or inconsistent keys and for rules without a Hugging Face form.
    """
    build_tokenizer(metadata).save(str(directory / "tokenizer.json"))
    tokens = metadata["tokenizer.ggml.tokens"]
    ids = {hf: special_id(metadata, gguf, len(tokens)) for hf, gguf in _SPECIAL.items()}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": tokens[index] for name, index in ids.items() if index is not None},
    }
    (directory / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")


def token_ids(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """bos, eos and pad ids as config.json and generation_config.json name them; eos may be a list
    of all ids that end a text. Raises FormatError for an id that is no token."""
    count = num_tokens(metadata)
    found: dict[str, Any] = {}
    for name in ("bos", "pad"):
        index = special_id(metadata, _SPECIAL[name], count)
        if index is not None:
            found[f"{name}_token_id"] = index
    ends = [special_id(metadata, name, count) for name in ("eos", "eot")]
    ends = [index for index in ends if index is not None]
    if ends:
        found["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    return found
