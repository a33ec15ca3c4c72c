"""Text that the model writes while it trains, so that people can see what the numbers mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wrinklefree.configs.config import GradientConfig
from wrinklefree.data.encode import IGNORE
from wrinklefree.data.packing import TokenRows
from wrinklefree.models.surgery import quantized_once
from wrinklefree.training.forward import device_of

NUM_PROMPTS = 2  # taken from the data when none are given
OPENING_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Samples:
    """Fixed prompts as token ids, continued greedily: the model alone changes between samples."""

    tokenizer: PreTrainedTokenizerBase
    prompts: tuple[list[int], ...]
    num_tokens: int

    @torch.no_grad()
    def write(self, model: PreTrainedModel) -> list[dict[str, str]]:
        """`prompt` and `text` for each prompt; uses no random numbers."""
        was_training = model.training
        model.train(False)
        written = []
        with quantized_once(model):
            for ids in self.prompts:
                continued = model.generate(  # type: ignore[operator]
                    torch.tensor([ids], device=device_of(model)),
                    attention_mask=torch.ones(1, len(ids), device=device_of(model)),
                    do_sample=False,
                    max_new_tokens=self.num_tokens,
                    pad_token_id=self.tokenizer.eos_token_id,
                )[0]
                prompt, text = (
                    str(self.tokenizer.decode(part, skip_special_tokens=True))
                    for part in (ids, continued[len(ids) :])
                )
                written.append({"prompt": prompt, "text": text})
        model.train(was_training)
        return written


def build_samples(
    config: GradientConfig, tokenizer: PreTrainedTokenizerBase, rows: TokenRows
) -> Samples:
    """Prompts as given; else the openings of rows: up to the first label, at least a few tokens."""
    prompts = tuple(list(tokenizer(prompt)["input_ids"]) for prompt in config.sample_prompts)
    return Samples(
        tokenizer, prompts or tuple(_openings(rows, tokenizer.eos_token_id)), config.sample_tokens
    )


def _openings(rows: TokenRows, end: int | None) -> list[list[int]]:
    openings = []
    for index in range(min(NUM_PROMPTS, len(rows))):
        tokens, targets, documents = rows.row(index)
        is_label = (targets != IGNORE).nonzero()[0]
        # targets[i] is the token after tokens[i], so the prompt ends with the first labelled one.
        length = max(int(is_label[0]) + 1 if len(is_label) else 0, OPENING_TOKENS)
        opening = tokens[documents == documents[0]][:length].tolist()
        if len(opening) > 1 and opening[-1] == end:  # of a short document; nothing follows it
            del opening[-1]
        openings.append(opening)
    return openings
