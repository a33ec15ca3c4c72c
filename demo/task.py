"""The choice task and the text of the demo, written as the files that wf-train and wf-eval read."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo import packages
from demo.recipe import TOPIC_WORDS, Recipe
from wrinklefree.errors import WrinklefreeError


@dataclass(frozen=True, slots=True)
class Example:
    """One text with its answer; `text` goes into the corpus, `question` is what the task asks."""

    text: str
    question: str
    label: int


@dataclass(frozen=True, slots=True)
class Task:
    examples: list[Example]
    choices: list[str]
    suffix: str  # follows the cut question in the prompt


def topics(cache: Path) -> Task:
    """The topic of a Wikipedia summary, out of eleven."""
    names = list(TOPIC_WORDS)
    examples = [
        Example(record["extract"], record["extract"], names.index(record["topic"]))
        for record in packages.summaries(cache)
        if record.get("topic") in TOPIC_WORDS and record.get("extract")
    ]
    return Task(examples, [f" {word}" for word in TOPIC_WORDS.values()], " Topic:")


def test_data() -> Path:
    """Folder of the tiny model and its stories: $WF_TEST_DATA, or ../shared/data."""
    checkout = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("WF_TEST_DATA") or checkout.parent / "shared" / "data")
    for part in ("stories260k_hf/config.json", "tinystories_sample/tiny_stories.txt"):
        if not (folder / part).exists():
            raise WrinklefreeError(f"--tiny needs {folder / part}; WF_TEST_DATA names the folder")
    return folder


def stories() -> Task:
    """Is a story about a girl or a boy? Asked about a sentence that begins with She or He."""
    text = (test_data() / "tinystories_sample" / "tiny_stories.txt").read_text("utf-8")
    examples = []
    for opening in re.finditer(r"little (girl|boy) named \w+", text):
        following = text[opening.end() : opening.end() + 600]
        sentence = re.search(r"\b(She|He) [^.!?\"]{20,}", following)
        if sentence is not None:
            label = int(opening[1] == "boy")
            examples.append(Example(opening[0] + following, sentence[0], label))
    # NOTE: a SentencePiece tokenizer puts the space before a word itself.
    return Task(examples, ["girl", "boy"], " There was a little")


def write(task: Task, recipe: Recipe, tokenizer_dir: Path, folder: Path) -> dict[str, int]:
    """Writes train, val (choice records), corpus and val_text (their texts); returns their sizes.

    Every prompt is the first `recipe.prompt_tokens` tokens of its question and the suffix: rows of
    one length make full batches. A record whose cut text has other tokens than it was cut from, or
    that is shorter, is left out.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    kept: list[tuple[Example, str]] = []
    for example in task.examples:
        ids = tokenizer.encode(example.question, add_special_tokens=False)[: recipe.prompt_tokens]
        cut = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        same = tokenizer.encode(cut, add_special_tokens=False) == ids
        if len(ids) == recipe.prompt_tokens and same:
            kept.append((example, f"{cut}{task.suffix}"))
    if len(kept) < 2 * recipe.held_out:
        raise WrinklefreeError(f"only {len(kept)} records are long enough for the task")
    random.Random(0).shuffle(kept)
    parts = {"val": kept[: recipe.held_out], "train": kept[recipe.held_out :]}
    folder.mkdir(parents=True, exist_ok=True)
    for part, text_file in (("train", "corpus.jsonl"), ("val", "val_text.jsonl")):
        records = (
            {"prompt": prompt, "choices": task.choices, "label": example.label}
            for example, prompt in parts[part]
        )
        _write(folder / f"{part}.jsonl", records)
        _write(folder / text_file, ({"text": example.text} for example, _ in parts[part]))
    return {part: len(records) for part, records in parts.items()}


def _write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
