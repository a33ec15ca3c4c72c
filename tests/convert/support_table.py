"""What each model becomes in each format: the tables of docs/formats.md.

    python -m tests.convert.support_table    # writes them there

They follow from the converter's own rules, applied to models without weights; test_matrix.py
converts each of them for real and compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.tiny_models import save_tiny_artifact
from wrinklefree.convert import gguf_names, hf_bitnet
from wrinklefree.convert.architectures import architecture_for, llama_cpp_limit, own_reason
from wrinklefree.convert.ternary_check import Ternary
from wrinklefree.convert.types import ternary_type

DOCUMENT = Path(__file__).parents[2] / "docs" / "formats.md"
BEGIN, END = "<!-- support table -->", "<!-- end of support table -->"
EPS = 1e-5

# Rows that are a multiple of 256, of 128, of 32 and of nothing.
SHAPES: dict[str, dict[str, int]] = {
    "256": {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4},
    "128": {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4},
    "32": {"hidden_size": 96, "intermediate_size": 96, "num_attention_heads": 4},
    "odd": {
        "hidden_size": 65,
        "intermediate_size": 33,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "head_dim": 16,
    },
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One kind of model."""

    family: str
    subln: str
    is_tied: bool
    has_bias: bool

    @property
    def settings(self) -> dict[str, Any]:
        """config.json entries beside the sizes; a Qwen2 has its biases without an option."""
        settings: dict[str, Any] = {"tie_word_embeddings": self.is_tied}
        if self.family != "qwen2":
            settings["attention_bias"] = self.has_bias
        return settings

    def __str__(self) -> str:
        head = "tied" if self.is_tied else "untied"
        return f"{self.family}-{self.subln}-{head}{'-bias' if self.has_bias else ''}"


def variants() -> Iterator[Variant]:
    for family in ("llama", "qwen2", "qwen3"):
        for subln in ("none", "subln", "all"):
            for is_tied in (True, False):
                for has_bias in (False, True):
                    if has_bias or family != "qwen2":
                        yield Variant(family, subln, is_tied, has_bias)


def save_variant(path: Path, tokenizer: Path, variant: Variant, rows: str) -> Path:
    """An artifact of one layer, with random weights and the row lengths of SHAPES[rows]."""
    return save_tiny_artifact(
        path,
        tokenizer,
        variant.family,
        subln=variant.subln,
        tied=variant.is_tied,
        num_hidden_layers=1,
        **SHAPES[rows],
        **({} if variant.family == "qwen2" else {"attention_bias": variant.has_bias}),
    )


class Weightless:
    """A `Source` of which only the rules of formats are asked."""

    def __init__(self, variant: Variant, shape: dict[str, int]) -> None:
        self.path = Path(str(variant))
        self.config: dict[str, Any] = {
            "model_type": variant.family,
            "hidden_act": "silu",
            "rms_norm_eps": EPS,
            "num_hidden_layers": 1,
            "num_key_value_heads": 2,
            **variant.settings,
            **shape,
        }
        self.subln, self.subln_eps = variant.subln, EPS
        self.kept_float: tuple[str, ...] = ()
        self.stage = "test"
        self.is_ternarized = self.is_float_model = False
        names = gguf_names.expected_hf_names(self.config, self.subln)
        if variant.has_bias:
            parts = "qkv" if variant.family == "qwen2" else "qkvo"
            names |= {f"model.layers.0.self_attn.{part}_proj.bias" for part in parts}
        self.names = sorted(names)
        self.num_bytes = 0

    def is_ternary(self, name: str) -> bool:
        return gguf_names.is_projection(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return (hf_bitnet.projection_rows(name, self.config), 0)

    def ternary(self, name: str) -> Ternary:
        raise NotImplementedError

    def masters(self, name: str) -> np.ndarray:
        raise NotImplementedError

    def read(self, name: str) -> np.ndarray:
        raise NotImplementedError

    def tokenizer_keys(self) -> dict[str, Any]:
        raise NotImplementedError

    def write_tokenizer(self, directory: Path) -> None:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Support:
    """What the converter makes of a model: an architecture's name, and reasons against the rest
    (None: it works)."""

    architecture: str
    llama_cpp: str | None
    bitnet: str | None
    plain_float: str | None


def support(variant: Variant, shape: dict[str, int]) -> Support:
    source = Weightless(variant, shape)
    arch = architecture_for(source.config, source.subln, EPS, source.names)
    return Support(
        arch.name,
        llama_cpp_limit(arch, own_reason(source.config, source.subln, EPS, source.names)),
        hf_bitnet.packing_limit(source),
        hf_bitnet.class_limit(source, is_float=True),
    )


def tables() -> str:
    """Markdown of both tables, with the reasons as numbered notes."""
    notes: list[str] = []

    def cell(reason: str | None) -> str:
        if reason is None:
            return "yes"
        if reason not in notes:
            notes.append(reason)
        return f"no ({notes.index(reason) + 1})"

    lines = [
        "| model | SubLN | head | biases | GGUF architecture | llama.cpp | `--to bitnet` "
        "| `--to float` |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant in variants():
        found = support(variant, SHAPES["256"])
        cells = (
            variant.family,
            f"`{variant.subln}`",
            "tied" if variant.is_tied else "own",
            "yes" if variant.has_bias else "no",
            f"`{found.architecture}`",
            cell(found.llama_cpp),
            cell(found.bitnet),
            cell(found.plain_float),
        )
        lines.append(f"| {' | '.join(cells)} |")
    architectures = [
        [support(variant, SHAPES[rows]).architecture for variant in variants()]
        for rows in ("256", "odd")
    ]
    narrow = {known for known, other in zip(*architectures, strict=True) if known != other}
    lines += [
        "",
        f"Where heads x head size is not the hidden size, {' and '.join(sorted(narrow))} become "
        "`wrinklefree` too.",
    ]
    odd = support(Variant("llama", "none", True, False), SHAPES["odd"]).bitnet
    lines += [
        "",
        "| rows are a multiple of | " + " | ".join(f"`{t}`" for t in _TYPES) + " | `--to bitnet` |",
        "|---|" + "---|" * (len(_TYPES) + 1),
    ]
    for name, columns in (("256", 256), ("128", 128), ("32", 32), ("nothing", 65)):
        kinds = " | ".join(ternary_type(columns, wanted).type.name for wanted in _TYPES)
        lines.append(f"| {name} | {kinds} | {cell(odd) if name == 'nothing' else 'yes'} |")
    return "\n".join([*lines, "", *(f"{i}. {note}" for i, note in enumerate(notes, 1))])


_TYPES = ("auto", "tq2_0", "tq1_0", "i2_s")


def with_tables(document: str) -> str:
    """The document with the text between the two marks replaced."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n{tables()}\n{END}", document)


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
