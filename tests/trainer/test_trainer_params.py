"""Params files: the shipped ones are valid, and mistakes are reported in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CHECKOUT

pytest.importorskip("torch")
pytest.importorskip("accelerate")

from small import values, write_params

from trainer.params_file import ParamsError, load_params

SHIPPED = sorted(path.name for path in (CHECKOUT / "configs").glob("params_*.yaml"))


def test_params_files_of_both_sizes_and_both_phases_are_shipped() -> None:
    for size in ("7b", "13b"):
        for phase in (1, 2):
            assert f"params_llava_v1p5_pretrain_{size}_phase{phase}_MSL2K.yaml" in SHIPPED
    assert {"params_tiny_phase1.yaml", "params_tiny_phase2.yaml"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_file_is_valid_and_found_by_its_name(name: str) -> None:
    params = load_params(name)
    assert params == load_params(str(CHECKOUT / "configs" / name))
    assert r"^model\.vision_tower\." in params.model.freeze


@pytest.mark.parametrize("size", ["7b", "13b"])
@pytest.mark.parametrize(
    ("name", "batch_size", "learning_rate", "aspect_ratio"),
    [("pretrain_{}_phase1", 256, 1e-3, "square"), ("pretrain_{}_phase2", 128, 2e-5, "pad")],
)
def test_settings_equal_those_of_the_paper(
    size: str, name: str, batch_size: int, learning_rate: float, aspect_ratio: str
) -> None:
    """LLaVA-1.5 (arXiv 2310.03744) and the authors' scripts/v1_5."""
    params = load_params(f"params_llava_v1p5_{name.format(size)}_MSL2K.yaml")
    assert params.train_input.batch_size == batch_size
    assert params.train_input.image_size == 336
    assert params.train_input.image_aspect_ratio == aspect_ratio
    optimizer, run = params.optimizer, params.runconfig
    assert optimizer.learning_rate == learning_rate
    assert (optimizer.weight_decay, optimizer.warmup_ratio, optimizer.lr_scheduler) == (0.0, 0.03, "cosine")
    assert (run.num_epochs, run.max_steps, run.precision) == (1, None, "bf16")
    assert params.model.image_feature_select_layer_idx == -2
    assert params.model.image_model.pretrained == "openai/clip-vit-large-patch14-336"
    assert params.model.text_model.pretrained == f"lmsys/vicuna-{size}-v1.5"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_input__batchsize": 4}, "unknown key train_input.batchsize (did you mean train_input.batch_size?)"),
        ({"runconfg__max_steps": 4}, "unknown key runconfg (did you mean runconfig?)"),
        (
            {"model__text_model__hiden_size": 4},
            "unknown key model.text_model.hiden_size (did you mean model.text_model.hidden_size?)",
        ),
        ({"train_input__batch_size": "four"}, "train_input.batch_size is 'four' (str): it should be a valid integer"),
        ({"train_input__batch_size": 0}, "train_input.batch_size is 0 (int): it should be greater than or equal to 1"),
        ({"train_input__batch_size": None}, "train_input.batch_size is missing; add it"),
        ({"optimizer__learning_rate": None}, "optimizer.learning_rate is missing; add it"),
        (
            {"train_input__data_dir": None},
            "train_input: give either data_dir, or mixture with a weight for each folder",
        ),
        ({"train_input__mixture": {"a": 1.0}}, "train_input: give either data_dir, or mixture"),
        ({"train_input__prefetch_factor": 2}, "train_input: prefetch_factor needs num_workers of at least 1"),
        ({"model__image_model__hidden_size": None}, "model.image_model: give pretrained, or the sizes of a model with"),
        ({"model__projector": {"type": "linear"}}, "model.projector.type is 'linear' (str): it should be 'mlp2x_gelu'"),
        ({"runconfig__load_checkpoint_states": "weights"}, "runconfig.load_checkpoint_states is 'weights'"),
        ({"runconfig__eval_steps": 2}, "runconfig.eval_steps needs the section eval_input"),
        ({"model__attention": "flash_attention_2"}, "model.attention flash_attention_2 computes in half precision"),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence_that_names_the_key(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write_params(tmp_path, **changes)
    with pytest.raises(ParamsError) as caught:
        load_params(str(path))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    made = values()
    del made["optimizer"]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(made), encoding="utf-8")
    with pytest.raises(ParamsError, match=r"optimizer is missing; add it \(a section of keys\)"):
        load_params(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "expected the sections train_input"),
        ("model: {", "is not valid YAML"),
        ("model: {}\nmodel: {}", "key 'model' is given twice"),
    ],
)
def test_a_file_that_is_not_a_params_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError, match=message):
        load_params(str(path))


def test_a_missing_file_is_refused_with_the_most_similar_shipped_name() -> None:
    with pytest.raises(ParamsError, match=r"file not found \(did you mean params_tiny_phase1.yaml\?\)"):
        load_params("param_tiny_phase1.yaml")


def test_overrides_work_at_any_depth_and_keep_their_types(tmp_path: Path) -> None:
    path = write_params(tmp_path)
    params = load_params(
        str(path), ["train_input.batch_size=8", "model.text_model.hidden_size=128", "optimizer.learning_rate=2e-5"]
    )
    assert params.train_input.batch_size == 8
    assert params.model.text_model.hidden_size == 128
    assert params.optimizer.learning_rate == 2e-5, "YAML 1.1 would read it as a string"


@pytest.mark.parametrize("override", ["batch_size=8", "train_input.batch_size", "train_input.batch_size.x=1"])
def test_an_override_that_is_not_section_key_value_is_refused(tmp_path: Path, override: str) -> None:
    path = write_params(tmp_path)
    with pytest.raises(ParamsError, match="argument"):
        load_params(str(path), [override])


def test_config_dir_is_the_folder_of_the_file_and_other_paths_are_unchanged(tmp_path: Path) -> None:
    path = write_params(tmp_path, train_input__data_dir=["${config_dir}/a", "b"])
    assert load_params(str(path)).train_input.folders == [f"{tmp_path.resolve()}/a", "b"]
