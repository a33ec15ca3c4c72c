"""The native engine from Python: load a model, generate, score. Imports no torch."""

from __future__ import annotations

from wrinklefree.engine.llm import LLM
from wrinklefree.engine.results import Completion, SamplingParams, Score
from wrinklefree.engine.tokenizer import Tokenizer

__all__ = ["LLM", "Completion", "SamplingParams", "Score", "Tokenizer"]
