"""load_teacher: what is read, what is refused, and that nothing is executed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from wrinklefree.errors import FormatError, UsageError
from wrinklefree.models import Manifest, load_artifact, load_teacher, quantize_, save_artifact


@pytest.fixture
def teacher_dir(make_model, tmp_path):
    """A small float model as transformers saves it."""
    make_model().save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def test_float_directory(teacher_dir, make_model, tokens):
    model, tokenizer = load_teacher(teacher_dir)
    assert tokenizer is None
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model(tokens).logits.isfinite().all()


def test_dtype_is_the_callers(teacher_dir):
    model, _ = load_teacher(teacher_dir, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_real_model_has_a_tokenizer_and_its_golden_first_token(data_dir):
    model, tokenizer = load_teacher(data_dir / "stories260k_hf")
    assert tokenizer is not None
    golden = json.loads((data_dir / "stories260k_hf/golden_hf_fp32.json").read_text())
    assert golden  # token ids and log-probabilities; the prompt is that of SOURCE.md
    prompt = torch.tensor([[1, 403, 407, 261, 378]])
    text = tokenizer.decode(model.generate(prompt, max_new_tokens=8, do_sample=False)[0])
    assert "there was a" in text


def _booby_trap(directory: Path, kind: str) -> Path:
    """Python file that leaves a mark when it is run, named by config.json or the tokenizer."""
    mark = directory / "executed"
    (directory / "trap.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    auto_map = {
        "AutoConfig": "trap.TrapConfig",
        "AutoModelForCausalLM": "trap.TrapModel",
        "AutoTokenizer": ["trap.TrapTokenizer", None],
    }
    config = json.loads((directory / "config.json").read_text())
    config["auto_map"] = auto_map
    if kind == "unknown type":
        config["model_type"] = "trap"
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto_map}))
    return mark


@pytest.mark.parametrize("kind", ["known type", "unknown type"])
def test_code_in_a_teacher_directory_is_not_executed(teacher_dir, kind):
    mark = _booby_trap(teacher_dir, kind)
    # The broken tokenizer alone is reason enough to fail; what counts is that nothing ran.
    with pytest.raises(FormatError):
        load_teacher(teacher_dir)
    assert not mark.exists()


def test_code_in_an_artifact_is_not_executed(make_model, tmp_path):
    model = make_model()
    quantize_(model)
    save_artifact(model, None, tmp_path / "a", Manifest("stage1_subln"))
    mark = _booby_trap(tmp_path / "a", "known type")
    with pytest.raises(FormatError):
        load_artifact(tmp_path / "a")
    assert not mark.exists()


class _Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_pickled_weights_are_refused_unread(teacher_dir):
    mark = teacher_dir / "executed"
    (teacher_dir / "model.safetensors").unlink()
    torch.save(_Payload(mark), teacher_dir / "pytorch_model.bin")
    with pytest.raises(FormatError, match=r"pytorch_model\.bin.*never read"):
        load_teacher(teacher_dir)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "sub/a.safetensors"])
def test_index_must_stay_inside_the_directory(teacher_dir, name):
    index = {"weight_map": {"model.norm.weight": name}}
    (teacher_dir / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="only plain"):
        load_teacher(teacher_dir)


def test_link_out_of_the_directory_is_refused(teacher_dir, tmp_path):
    outside = (teacher_dir / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (teacher_dir / "model.safetensors").symlink_to(outside)
    with pytest.raises(FormatError, match="link out of its directory"):
        load_teacher(teacher_dir)


def test_hub_cache_layout_with_links_to_blobs_loads(teacher_dir, tmp_path):
    snapshot = tmp_path / "models--a--b/snapshots/0123"
    blobs = tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in list(teacher_dir.iterdir()):
        (snapshot / file.name).symlink_to(file.rename(blobs / file.name))
    load_teacher(snapshot)


def test_missing_tensor_is_an_error_not_a_warning(teacher_dir):
    from safetensors.torch import load_file, save_file

    tensors = load_file(teacher_dir / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, teacher_dir / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FormatError, match=r"missing: model\.layers\.0\.mlp\.up_proj\.weight"):
        load_teacher(teacher_dir)


def test_artifact_as_teacher_is_refused(make_model, tmp_path):
    model = make_model()
    quantize_(model)
    save_artifact(model, None, tmp_path / "a", Manifest("stage1_subln"))
    with pytest.raises(UsageError, match="ternary artifact"):
        load_teacher(tmp_path / "a")


@pytest.mark.parametrize("source", ["/nowhere/at/all", "./nowhere", "no/such/hub/id"])
def test_missing_directory(source):
    with pytest.raises(UsageError, match="no such directory"):
        load_teacher(source)


def test_gguf_file_gets_the_command_that_converts_it(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UsageError, match="wf-convert"):
        load_teacher(tmp_path / "model.gguf")


def test_unreachable_hub_is_one_line_with_the_download_command(monkeypatch):
    def no_network(*args, **kwargs):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("wrinklefree.models.teacher.HfApi.model_info", no_network)
    with pytest.raises(UsageError, match="hf download no-such-org/no-such-model") as caught:
        load_teacher("no-such-org/no-such-model")
    assert "\n" not in str(caught.value)
