"""wrinklefree: 1.58-bit language models, from a pretrained checkpoint to a served ternary model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wrinklefree._version import __version__

if TYPE_CHECKING:
    from wrinklefree.engine import LLM

__all__ = ["LLM", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import wrinklefree` loads neither the engine nor torch.
    if name == "LLM":
        from wrinklefree.engine import LLM

        return LLM
    raise AttributeError(f"module 'wrinklefree' has no attribute {name!r}")
