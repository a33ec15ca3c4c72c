"""Records from files: every format, every way to be wrong, and the hub without a network."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pytest

from wrinklefree.configs.config import DataConfig
from wrinklefree.data.records import PairRecord, TextRecord
from wrinklefree.data.sources import fingerprint, read_records
from wrinklefree.errors import FormatError, UsageError

SFT = {"prompt": "2+2=", "completion": "4"}
CHOICE = {"prompt": "sky is", "choices": [" red", " blue"], "label": 1}


def write(path: Path, *records: object) -> DataConfig:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return DataConfig(path=str(path))


def read(config: DataConfig, **changes: object) -> list[object]:
    fields = {name: getattr(config, name) for name in DataConfig.__slots__}
    return list(read_records(DataConfig(**fields | changes)))


def test_each_format_is_parsed(tmp_path: Path) -> None:
    text = write(tmp_path / "a.jsonl", {"text": "one"}, {"text": "two"})
    assert read(text) == [TextRecord("one"), TextRecord("two")]
    sft = write(tmp_path / "b.jsonl", SFT)
    assert read(sft, format="sft") == [PairRecord("2+2=", "4", ends=True)]
    choice = write(tmp_path / "c.jsonl", CHOICE)
    assert read(choice, format="choice") == [PairRecord("sky is", " blue", ends=False)]


def test_text_files_and_gzip(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a story\n\nanother")
    assert read(DataConfig(path=str(tmp_path / "a.txt"))) == [TextRecord("a story\n\nanother")]
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write('{"body": "packed"}\n\n')
    config = DataConfig(path=str(tmp_path / "a.jsonl.gz"), text_field="body")
    assert read(config) == [TextRecord("packed")]


def test_limit_stops_early(tmp_path: Path) -> None:
    config = write(tmp_path / "a.jsonl", *({"text": str(number)} for number in range(9)))
    assert len(read(config, limit=4)) == 4


@pytest.mark.parametrize(
    ("record", "kind", "words"),
    [
        ({"txt": "x"}, "text", "record 1.*txt"),
        ({"prompt": "x"}, "sft", "completion"),
        (CHOICE | {"label": 2}, "choice", "2 choices"),
        (CHOICE | {"label": True}, "choice", "label"),
        (CHOICE | {"choices": "yes"}, "choice", "non-empty strings"),
        (["x"], "text", "JSON object"),
        ({"text": None}, "text", 'record 1: "text" is null'),
        (SFT | {"completion": 4}, "sft", '"completion" must be a string, not int'),
        ({"sentence": None, "label": 1}, "sst2", 'sst2: "sentence" is null'),
        (
            {"messages": [{"role": "user", "content": None}]},
            "chat",
            'record 1, message 1: "content" is null',
        ),
    ],
    ids=[
        "wrong-field",
        "no-completion",
        "label-range",
        "label-bool",
        "choices",
        "list",
        "null",
        "number",
        "null-glue",
        "null-chat",
    ],
)
def test_a_bad_record_is_named(tmp_path: Path, record: object, kind: str, words: str) -> None:
    config = write(tmp_path / "a.jsonl", record)
    with pytest.raises(FormatError, match=words):
        read(config, format=kind)


def test_broken_json_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": \n')
    with pytest.raises(FormatError, match="line 2"):
        read(DataConfig(path=str(tmp_path / "a.jsonl")))


@pytest.mark.parametrize("path", ["nothing.jsonl", "./no/such", "a.csv"])
def test_a_missing_file_is_a_usage_error(tmp_path: Path, path: str) -> None:
    (tmp_path / "a.csv").write_text("text\n")
    with pytest.raises(UsageError):
        read(DataConfig(path=path if path != "a.csv" else str(tmp_path / path)))


def test_text_file_has_no_choices(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match=r"data\.format=text"):
        read(DataConfig(path=str(tmp_path / "a.txt"), format="choice"))


def test_hub_rows_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def load_dataset(repo: str, subset: str | None, **options: object) -> list[dict[str, str]]:
        asked.update(options, repo=repo, subset=subset)
        return [{"text": "from the hub"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    config = DataConfig(path="owner/name", subset="part", split="validation", revision="abc")
    assert read(config) == [TextRecord("from the hub")]
    assert asked == {
        "repo": "owner/name",
        "subset": "part",
        "split": "validation",
        "revision": "abc",
        "streaming": True,
    }


def test_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_args: object, **_options: object) -> None:
        raise ConnectionError("no route to host\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UsageError, match=r"owner/name .*no route.*give its files") as caught:
        read(DataConfig(path="owner/name"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("at", [0, 5000, -1])
def test_a_fingerprint_sees_other_content_of_the_same_size(tmp_path: Path, at: int) -> None:
    content = bytearray(b"a" * 9000)
    (tmp_path / "a.txt").write_bytes(content)
    source = DataConfig(path=str(tmp_path)).sources[0]
    before = fingerprint(source)
    (tmp_path / "a.txt").write_bytes(content)  # later, and the same
    assert fingerprint(source) == before
    content[at] = ord("b")
    (tmp_path / "a.txt").write_bytes(content)
    assert fingerprint(source) != before
