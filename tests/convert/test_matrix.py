"""Every kind of model into every format and back: equal logits, or a refusal with its reason.

Logits are the engine's without activation quantization (`verify_logits`), and transformers' for
the classes that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.convert.support_table import (
    DOCUMENT,
    SHAPES,
    Support,
    Variant,
    save_variant,
    support,
    variants,
    with_tables,
)
from tests.convert.tiny_models import save_tiny_artifact
from wrinklefree.convert.agreement import verify_logits
from wrinklefree.convert.architectures import ARCHITECTURES
from wrinklefree.convert.gguf_source import GgufSource
from wrinklefree.convert.open_source import open_source
from wrinklefree.convert.plan import plan_gguf
from wrinklefree.convert.to_gguf import write_gguf
from wrinklefree.convert.to_hf import Form, write_hf
from wrinklefree.convert.verify import verify_directory, verify_tensors
from wrinklefree.engine import LLM
from wrinklefree.errors import FormatError

PROMPT = [1, 403, 407, 261, 378, 299, 310, 427, 286, 333, 401, 317]


def test_the_table_in_the_documentation_is_current() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert with_tables(document) == document, "run python -m tests.convert.support_table"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """More threads than work only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def artifact(
    data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Variant, str], Path]:
    made: dict[tuple[Variant, str], Path] = {}

    def make(variant: Variant, rows: str) -> Path:
        key = (variant, rows)
        if key not in made:
            path = tmp_path_factory.mktemp(str(variant)) / "artifact"
            made[key] = save_variant(path, data_dir / "stories260k_hf", variant, rows)
        return made[key]

    return make


def directory(source: Path, target: Path, form: Form, reason: str | None) -> bool:
    """Writes `form`, or asserts the refusal; whether it is there."""
    opened = open_source(source)
    target.mkdir()
    if reason is not None:
        with pytest.raises(FormatError) as caught:
            write_hf(opened, target, form)
        assert reason in str(caught.value)
        assert list(target.iterdir()) == []
        return False
    write_hf(opened, target, form)
    verify_directory(opened, target, form)
    return True


@pytest.mark.parametrize("rows", SHAPES)
@pytest.mark.parametrize("variant", list(variants()), ids=str)
def test_cell(
    artifact: Callable[[Variant, str], Path], tmp_path: Path, variant: Variant, rows: str
) -> None:
    source = artifact(variant, rows)
    expected: Support = support(variant, SHAPES[rows])
    # Types alternate over the cells, so that each meets each kind of rows.
    wanted = ("tq2_0", "tq1_0", "i2_s")[(len(str(variant)) + len(rows)) % 3]
    file = tmp_path / "model.gguf"
    plan = plan_gguf(source, wanted=wanted)
    assert plan.architecture.name == expected.architecture
    write_gguf(plan, file)
    verify_tensors(plan, file)
    verify_logits(source, file)
    directory(file, tmp_path / "back", Form.ARTIFACT, None)
    verify_logits(source, tmp_path / "back")
    linear_class = Form.BITLINEAR if len(str(variant)) % 2 else Form.AUTOBITLINEAR
    packed = tmp_path / "packed"
    if directory(file, packed, linear_class, expected.bitnet):
        verify_logits(source, packed)
        second = plan_gguf(packed)
        assert second.architecture.name == expected.architecture
        write_gguf(second, tmp_path / "second.gguf")
        verify_logits(source, tmp_path / "second.gguf")
    if directory(source, tmp_path / "float", Form.FLOAT, expected.plain_float):
        verify_logits(source, tmp_path / "float")


GOLDEN = {
    "llama": Variant("llama", "none", False, True),
    "qwen2": Variant("qwen2", "none", True, True),
    "qwen3": Variant("qwen3", "none", True, False),
    "bitnet": Variant("llama", "subln", True, False),
    "wrinklefree": Variant("llama", "subln", False, True),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_transformers_decides_on_row_order_and_wiring(
    artifact: Callable[[Variant, str], Path], tmp_path: Path, name: str
) -> None:
    """The class of transformers on the dequantized weights, against the engine on the file."""
    source = artifact(GOLDEN[name], "256")
    write_gguf(plan_gguf(source), tmp_path / "model.gguf")
    opened = GgufSource(tmp_path / "model.gguf")
    assert opened.architecture.name == name
    (tmp_path / "float").mkdir()
    write_hf(open_source(source), tmp_path / "float", Form.FLOAT)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "float", dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = model(torch.tensor([PROMPT])).logits[0].log_softmax(-1)
    with LLM(tmp_path / "model.gguf", act_quant=False) as llm:
        found = torch.from_numpy(llm.logits(PROMPT)).log_softmax(-1)
    # Scales and embedding are rounded to float16 in the file.
    assert float((found - wanted).abs().max()) < 1e-2
    assert float((wanted.exp() * (wanted - found)).sum(-1).mean()) < 1e-5


def test_every_architecture_of_peers_has_a_golden_model() -> None:
    assert set(GOLDEN) == {*ARCHITECTURES, "wrinklefree"} - {"bitnet-b1.58"}  # next test


def test_squared_relu_of_bitnet_b1_58(data_dir: Path, tmp_path: Path) -> None:
    source = save_tiny_artifact(
        tmp_path / "a", data_dir / "stories260k_hf", subln="subln", hidden_act="relu2"
    )
    write_gguf(plan_gguf(source, embed="f32", wanted="i2_s"), tmp_path / "a.gguf")
    (tmp_path / "float").mkdir()
    write_hf(open_source(source), tmp_path / "float", Form.FLOAT)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "float", dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = model(torch.tensor([PROMPT])).logits[0].log_softmax(-1)
    with LLM(tmp_path / "a.gguf", act_quant=False) as llm:
        found = torch.from_numpy(llm.logits(PROMPT)).log_softmax(-1)
    assert float((found - wanted).abs().max()) < 1e-3
