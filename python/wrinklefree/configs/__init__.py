"""The packaged Hydra groups of wf-train and the dataclasses that define every key in them."""
