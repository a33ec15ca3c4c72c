"""From artifact directories to GGUF files and back."""

from __future__ import annotations
