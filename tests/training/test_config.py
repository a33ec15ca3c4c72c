"""The schema is the only list of keys: YAML, command line, help and code agree with it."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

import wrinklefree
from wrinklefree.configs.build import leaves
from wrinklefree.configs.compose import DIRECTORY, compose_run, group_choices
from wrinklefree.configs.config import GROUPS, GradientConfig, SourceConfig
from wrinklefree.errors import UsageError
from wrinklefree.training.stages import STAGES

MIX = ["data=mixture", "data.path=null"]
BASE = ["training=stage2_pretrain", "model.path=m", "data.path=d", "out=o"]


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_stage_has_a_valid_file_of_its_name(stage: str) -> None:
    config = compose_run([f"training={stage}", "model.path=m", "data.path=d", "out=o"])
    assert config.training.stage == stage


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_no_stage_decays_weights_to_its_end_by_default(stage: str) -> None:
    """Decay that stays on makes ternary training plateau (openai/parameter-golf#367)."""
    training = compose_run([f"training={stage}", "model.path=m", "data.path=d", "out=o"]).training
    if isinstance(training, GradientConfig):
        assert training.weight_decay == 0 or training.weight_decay_until < 1


def test_every_packaged_file_composes() -> None:
    for group in GROUPS:
        for name in group_choices(group):
            extra = [f"{group}={name}"]
            if group == "training":
                extra = []
            compose_run([*BASE, *extra])
    assert {path.stem for path in (DIRECTORY / "training").glob("*.yaml")} == set(STAGES)


def test_packaged_files_are_short() -> None:
    for path in DIRECTORY.rglob("*.yaml"):
        assert len(path.read_text().splitlines()) <= 40, path


def test_values_arrive_with_their_types() -> None:
    config = compose_run(
        [*BASE, "training.lr=1e-3", "training.freeze=[embed]", "training.relation_layers=[1,-1]"]
    )
    assert isinstance(config.training, GradientConfig)
    assert config.training.lr == 0.001
    assert config.training.freeze == ("embed",)
    assert config.training.relation_layers == (1, -1)
    assert config.training.gains_lr_multiplier == 1.0  # from the schema, not in the YAML file


def test_a_config_file_or_number_like_path_stays_text() -> None:
    assert compose_run([*BASE, "data.split=2024"]).data.split == "2024"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["training=stage3_destill"], "did you mean 'stage3_distill'"),
        (["training.learning_rat=1"], "unknown key training.learning_rat"),
        (["training.gama=1"], "did you mean 'training.gamma'"),
        (["modl.path=x"], "did you mean 'model.path'"),
        (["data=locl"], "fineweb_edu, local, mixture, mnli"),
        (["distributed=fsdp"], "allowed are ddp, fsdp2, single"),
        (["training.lr=fast"], "training.lr=fast: expected float"),
        (["training.lr=-1"], "must be at least 0"),
        (["training.lr=nan"], "must be finite"),
        (["training.steps=1.5"], "expected int"),
        (["training.schedule=cosin"], "did you mean 'cosine'"),
        (["training.freeze=[embeds]"], "did you mean 'embed'"),
        (["training.freeze=embed"], "expected a list"),
        (["training.cache_teacher=maybe"], "expected bool"),
        (["resume=always"], "allowed are auto, never"),
        (["lr"], "write key=value"),
        (["training=stage1_subln", "training.lr=1"], "for training=stage1_subln"),
        (["data.path=???"], "data.path is missing"),
        (["training.lr={"], "cannot be read"),
        (["data.mixture=[{path:a}]"], "data.path=d and data.mixture are both given"),
        ([*MIX, "data.mixture=[{path:a,wieght:1}]"], "data.mixture[0].wieght; did you mean"),
        ([*MIX, "data.mixture=[{path:a},{format:sft}]"], "data.mixture[1].path is missing"),
        ([*MIX, "data.mixture=[{path:a,format:glue}]"], "data.mixture[0].format=glue: allowed"),
        ([*MIX, "data.mixture=[{path:a,weight:-1}]"], "weight=-1.0: must be at least 0"),
        ([*MIX, "data.mixture=[{path:a,weight:0}]"], "a weight above 0"),
        ([*MIX, "data.mixture=[]"], "a weight above 0"),
        ([*MIX, "data.mixture=[a]"], "expected keys and values"),
        ([*MIX, "data.mixture=[{path:a}]", "data.streaming=false"], "always streamed"),
        (MIX, "data.path is missing (or a data.mixture)"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_with_the_nearest_name(settings: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        compose_run([*BASE, *settings])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mixture_is_a_list_of_sources() -> None:
    given = "data.mixture=[{path:a.jsonl,weight:3},{path:o/n,format:chat,subset:x,limit:5}]"
    data = compose_run([*BASE, *MIX, given]).data
    assert data.sources == (
        SourceConfig(path="a.jsonl", weight=3.0),
        SourceConfig(path="o/n", format="chat", subset="x", limit=5),
    )
    single = compose_run([*BASE, "data.format=sst2", "data.limit=9"]).data
    assert single.sources == (SourceConfig(path="d", format="sst2", limit=9),)


def test_missing_settings_are_named() -> None:
    with pytest.raises(UsageError, match="name the stage"):
        compose_run(["model.path=m"])
    with pytest.raises(UsageError, match=r"model\.path is missing"):
        compose_run(["training=teacher_sft", "data.path=d", "out=o"])


def test_no_dead_knob() -> None:
    """Every leaf of the schema is read as an attribute somewhere in the code that runs."""
    package = Path(wrinklefree.__file__).parent
    read: set[str] = set()
    for folder in ("data", "training"):
        for path in (package / folder).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            read |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    for stage in ("stage1_subln", "stage2_pretrain"):
        for key in leaves(stage):
            assert key.rpartition(".")[2] in read, f"no code reads {key}"


def test_every_leaf_has_a_help_text() -> None:
    for stage in STAGES:
        for key, leaf in leaves(stage).items():
            assert leaf.metadata.get("help"), key


def test_configs_are_frozen() -> None:
    config = compose_run(BASE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.out = "elsewhere"  # type: ignore[misc]


def test_documentation_lists_every_key_as_it_is() -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    for stage in ("stage1_subln", "stage2_pretrain"):
        for key, leaf in leaves(stage).items():
            if key == "training.stage":
                continue
            note = (
                " (stage1_subln)" if stage == "stage1_subln" and key.startswith("training") else ""
            )
            is_required = leaf.default is dataclasses.MISSING
            default = "required" if is_required else f"`{leaf.default}`"
            assert f"| `{key}`{note} | {default} | {leaf.metadata['help']} |" in text
