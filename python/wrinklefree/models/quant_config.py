"""QuantConfig: what `quantize_` does to a model, and its form in config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from wrinklefree.errors import FormatError, UsageError, nearest

QUANT_METHOD = "wrinklefree"
SubLNPlacement = Literal["subln", "all", "none"]

# Names in `quantization_config`; `lambda` is a Python keyword, hence the table.
_JSON_NAMES = {
    "scheme": "scheme",
    "subln": "subln",
    "subln_eps": "subln_eps",
    "lambda": "lam",
    "modules_to_not_convert": "modules_to_not_convert",
}


@dataclass(frozen=True, slots=True)
class QuantConfig:
    """How a float model becomes a ternary one.

    subln: "subln" = norms before o_proj and down_proj, "all" = a norm inside every BitLinear,
      "none". subln_eps: None takes the model's own rms_norm_eps.
    modules_to_not_convert: module names, or dotted parts of them, whose linear layers stay float.
    lam: the blend lambda in [0, 1] that the model starts with.
    Raises UsageError for a value outside of these.
    """

    scheme: Literal["ternary"] = "ternary"
    subln: SubLNPlacement = "subln"
    modules_to_not_convert: tuple[str, ...] = ("lm_head",)
    lam: float = 1.0
    subln_eps: float | None = None

    def __post_init__(self) -> None:
        if self.scheme != "ternary":
            raise UsageError(f"scheme {self.scheme!r} is not supported; allowed: ternary")
        if self.subln not in get_args(SubLNPlacement):
            allowed = get_args(SubLNPlacement)
            hint = nearest(str(self.subln), allowed)
            raise UsageError(f"subln {self.subln!r} is not one of {', '.join(allowed)}{hint}")
        check_lambda(self.lam)
        if self.subln_eps is not None and not self.subln_eps > 0:
            raise UsageError(f"subln_eps must be a positive number, got {self.subln_eps!r}")

    def to_json(self) -> dict[str, Any]:
        """The `quantization_config` object of config.json."""
        fields = {name: getattr(self, field) for name, field in _JSON_NAMES.items()}
        fields["modules_to_not_convert"] = list(self.modules_to_not_convert)
        return {"quant_method": QUANT_METHOD, **fields}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> QuantConfig:
        """Inverse of `to_json`. Raises FormatError for unknown, missing or invalid entries."""
        given = {name: value for name, value in fields.items() if name != "quant_method"}
        unknown = [f"{name!r}{nearest(name, _JSON_NAMES)}" for name in given.keys() - _JSON_NAMES]
        if unknown:
            raise FormatError(f"quantization_config has unknown entries: {', '.join(unknown)}")
        if missing := [name for name in _JSON_NAMES if name not in given]:
            raise FormatError(f"quantization_config lacks {', '.join(missing)}")
        try:
            values = {_JSON_NAMES[name]: value for name, value in given.items()}
            values["modules_to_not_convert"] = tuple(values["modules_to_not_convert"])
            return cls(**values)
        except (UsageError, TypeError) as error:
            raise FormatError(f"quantization_config: {error}") from error


def check_lambda(lam: float) -> None:
    """Raises UsageError unless lam is a number in [0, 1]."""
    if not isinstance(lam, (int, float)) or not 0.0 <= lam <= 1.0:
        raise UsageError(f"lambda must be a number from 0 to 1, got {lam!r}")
