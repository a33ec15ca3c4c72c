"""The OpenAI-compatible server. It imports nothing of the torch wing."""
