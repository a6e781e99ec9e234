"""Building a model from pretrained or random parts, freezing, and mismatches that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import QUICKSTART

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from safetensors.torch import load_file, save_file  # noqa: E402
from small import dataset, values  # noqa: E402
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM  # noqa: E402

from trainer.build import build_model, freeze, load_checkpoint  # noqa: E402
from trainer.chat_prompt import RowTemplate  # noqa: E402
from trainer.data import RowShape, read_row_shape  # noqa: E402
from trainer.params import Params  # noqa: E402
from trainer.params_file import ParamsError  # noqa: E402
from trainer.processor import find_tokenizer  # noqa: E402
from trainer.prompt_tokenizer import image_token_id  # noqa: E402


def make(**changes: Any) -> Any:
    params = Params.model_validate(values(**changes))
    shape = read_row_shape(params, params.train_input.folders)
    return build_model(params.model, shape, image_token_id=image_token_id(find_tokenizer(params.model, None)))


@pytest.fixture
def pretrained(tmp_path: Path) -> dict[str, Any]:
    """A CLIP vision model and a Llama on disk, as the changed params that name them."""
    sizes = values()["model"]
    clip = CLIPVisionModel(CLIPVisionConfig(**sizes["image_model"]))
    clip.save_pretrained(tmp_path / "clip")
    text = {name: size for name, size in sizes["text_model"].items() if name != "tokenizer"}
    LlamaForCausalLM(LlamaConfig(**text)).save_pretrained(tmp_path / "llama")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "llama" / name).write_bytes((QUICKSTART / "tokenizer" / name).read_bytes())
    return {
        "model__image_model": {"pretrained": str(tmp_path / "clip")},
        "model__text_model": {"pretrained": str(tmp_path / "llama")},
    }


@pytest.mark.slow
def test_pretrained_parts_keep_every_weight_and_the_projector_is_new(pretrained: dict[str, Any]) -> None:
    model = make(**pretrained)
    # Versions of transformers differ in one level of names within CLIP.
    state = {name.replace("vision_tower.vision_model.", "vision_tower."): t for name, t in model.state_dict().items()}
    clip = load_file(Path(pretrained["model__image_model"]["pretrained"]) / "model.safetensors")
    llama = load_file(Path(pretrained["model__text_model"]["pretrained"]) / "model.safetensors")
    for name, tensor in clip.items():
        assert torch.equal(state["model.vision_tower." + name.removeprefix("vision_model.")], tensor), name
    for name, tensor in llama.items():
        ours = "lm_head.weight" if name == "lm_head.weight" else "model.language_model." + name.removeprefix("model.")
        assert torch.equal(state[ours][: len(tensor)], tensor), name
    assert len(clip) + len(llama) + 4 == len(state), "and the two layers of the projector"
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    weight = model.model.multi_modal_projector.linear_1.weight
    bound = 1 / weight.shape[1] ** 0.5  # of torch.nn.Linear
    assert 0.9 * bound < weight.abs().max() <= bound


@pytest.mark.slow
def test_the_image_token_gets_a_row_and_new_rows_are_the_mean_of_the_others(pretrained: dict[str, Any]) -> None:
    model = make(**pretrained)
    assert model.config.image_token_index == 1800
    assert model.config.text_vocab_size == 1800
    assert model.config.text_config.vocab_size == 1856, "1801, rounded up to a multiple of 64"
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert layer.weight.shape[0] == 1856
        torch.testing.assert_close(layer.weight[1800:], layer.weight[:1800].mean(0).expand(56, -1))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_random_model() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(make().state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_a_pretrained_model_with_a_missing_tensor_is_refused(pretrained: dict[str, Any]) -> None:
    path = Path(pretrained["model__image_model"]["pretrained"]) / "model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if name.endswith("layers.1.mlp.fc1.bias")))
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ParamsError, match=r"1 tensors of .* are missing or have .*layers\.1\.mlp\.fc1\.bias"):
        make(**pretrained)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model__image_model": {"pretrained": "/no/such/clip"}},
            "model.image_model.pretrained /no/such/clip: no such folder",
        ),
        ({"model__text_model": {"pretrained": "/no/such/llama"}}, "pretrained /no/such/llama: no such folder"),
        ({"model__text_model__tokenizer": "/no/such"}, "model.text_model.tokenizer /no/such: no such folder"),
        ({"model__image_start_idx": 5}, "model.image_start_idx is 5, but the rows of"),
        ({"train_input__image_size": 336}, "train_input.image_size is 336, but the rows of"),
        ({"model__image_model__image_size": 112}, "takes images of 112 pixels and produces 64 patches"),
        ({"model__image_model__patch_size": 28}, "produces 4 patches, but the rows are made for 56 pixels and 16"),
        ({"model__image_feature_select_layer_idx": -4}, "has hidden states -3 to 2"),
        ({"model__text_model__vocab_size": 1000, "model__text_model__tokenizer": None}, "the rows hold ids up to 1799"),
        ({"model__text_model__max_position_embeddings": 64}, "96 positions, but the text model supports at most"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused_in_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        make(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_that_differ_from_the_pretrained_model_are_refused(pretrained: dict[str, Any]) -> None:
    section = {**pretrained["model__text_model"], "hidden_size": 128}
    with pytest.raises(ParamsError, match=r"model\.text_model\.hidden_size is 128, but the model has 64"):
        make(**{**pretrained, "model__text_model": section})


@pytest.mark.slow
def test_a_checkpoint_is_loaded_completely_or_refused(tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    params = Params.model_validate(values())
    shape = read_row_shape(params, [str(dataset())])
    loaded = load_checkpoint(str(tmp_path), params.model, shape)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    assert loaded.image_start_idx == shape.image_start_idx > 0
    other = Params.model_validate(values(model__image_feature_select_layer_idx=-1))
    with pytest.raises(ParamsError, match=r"is -1, but .* was trained with -2; give -2"):
        load_checkpoint(str(tmp_path), other.model, shape)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("multi_modal_projector.linear_1.bias")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ParamsError, match=r"multi_modal_projector\.linear_1\.bias"):
        load_checkpoint(str(tmp_path), params.model, shape)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "sdpa_by_sample"])
def test_a_new_model_uses_the_configured_attention(attention: str) -> None:
    model = make(model__attention=attention)
    for part in (model.model.language_model, model.model.vision_tower):
        assert part.config._attn_implementation == attention


@pytest.mark.skipif(torch.cuda.is_available(), reason="FlashAttention may be installed")
def test_attention_that_is_not_available_is_refused_in_one_sentence() -> None:
    with pytest.raises(ParamsError, match=r"^model\.attention flash_attention_2: cannot be used here") as caught:
        make(model__attention="flash_attention_2", runconfig__precision="bf16")
    assert "\n" not in str(caught.value)


def test_the_shape_of_the_rows_is_read_from_data_params() -> None:
    params = Params.model_validate(values())
    described = json.loads((dataset() / "data_params.json").read_bytes())
    assert read_row_shape(params, [str(dataset())]) == RowShape(
        described["image_start_idx"], 16, 56, 96, described["vocab_size"], template=RowTemplate("vicuna_v1", None, None)
    )


def test_a_freeze_pattern_is_searched_in_parameter_names() -> None:
    model = make()
    freeze(model, [r"layers\.0\."])
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("layers.0." not in name), name


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["vison_tower"], "'vison_tower' matches no parameter name; the names begin with model.vision_tower., "),
        ([r"^vision_tower\."], "matches no parameter name"),
        (["(vision"], "'(vision' is not a valid regular expression"),
        (["."], "model.freeze freezes every parameter"),
    ],
)
def test_a_freeze_pattern_that_is_invalid_or_matches_nothing_or_everything_is_refused(
    patterns: list[str], message: str
) -> None:
    with pytest.raises(ParamsError) as caught:
        freeze(make(), patterns)
    assert message in str(caught.value)


FREE = RowShape(image_start_idx=None, num_patches=16, image_size=56, max_sequence_length=96, vocab_size=1800)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "attention", "message"),
    [
        ({"sliding_window": 64}, "sdpa", "window of 64 positions, but the rows have 96"),
        ({"sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]}, "eager", "window of 64"),
        ({"sliding_window": 64, "layer_types": ["full_attention"] * 2}, "sdpa", None),
        ({"sliding_window": 64}, "sdpa_by_sample", "window of 64 positions, but the rows have 96"),
        ({"sliding_window": 96}, "sdpa", None),
        ({"sliding_window": None}, "sdpa", None),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "sdpa", "has layers of chunked_attention"),
    ],
)
def test_a_text_model_whose_own_attention_mask_packed_rows_would_ignore_is_refused(
    tmp_path: Path, changes: dict[str, Any], attention: str, message: str | None
) -> None:
    fixed = read_row_shape(Params.model_validate(values()), [str(dataset())])
    params = Params.model_validate(values(model__attention=attention))
    model = make()
    for name, value in changes.items():
        setattr(model.config.text_config, name, value)
    model.save_pretrained(tmp_path)
    assert load_checkpoint(str(tmp_path), params.model, fixed).image_start_idx == fixed.image_start_idx
    if message is None:
        assert load_checkpoint(str(tmp_path), params.model, FREE).image_start_idx is None
        return
    with pytest.raises(ParamsError) as caught:
        load_checkpoint(str(tmp_path), params.model, FREE)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
