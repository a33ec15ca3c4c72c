"""Measuring a model: accuracy on choice tasks, perplexity, and the baselines beside them."""

from __future__ import annotations
