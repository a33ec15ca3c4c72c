"""The whole chain on one real model: `python -m demo` (what `make demo` runs)."""
