"""Conversion to the LLaVA authors' folders and back: every tensor, and the settings that their code reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import QUICKSTART

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from safetensors.torch import load_file, save_file  # noqa: E402
from small import write_params  # noqa: E402
from transformers import AutoProcessor, AutoTokenizer, CLIPVisionModel, LlavaForConditionalGeneration  # noqa: E402

from trainer.convert import main  # noqa: E402
from trainer.run import main as run  # noqa: E402

pytestmark = pytest.mark.slow


def convert(to: str, folder: Path, out: Path, *arguments: str) -> int:
    return main(["--to", to, str(folder), str(out), *arguments])


def state(folder: Path) -> dict[str, Any]:
    return LlavaForConditionalGeneration.from_pretrained(folder).state_dict()


def assert_same_tensors(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
        assert one[name].dtype == other[name].dtype, name


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of a run of one step on padded images, so that the aspect ratio must be converted, too."""
    folder = tmp_path_factory.mktemp("saved")
    params = write_params(folder, runconfig__max_steps=1, train_input__image_aspect_ratio="pad")
    assert run(["--params", str(params), "--model_dir", str(folder / "model")]) == 0
    return folder / "model"


@pytest.fixture(scope="module")
def llava(saved: Path) -> Path:
    out = saved.parent / "llava"
    assert convert("llava", saved, out) == 0
    return out


def test_converting_to_llava_and_back_keeps_every_tensor_and_setting(saved: Path, llava: Path, tmp_path: Path) -> None:
    assert convert("hf", llava, tmp_path / "hf") == 0
    assert_same_tensors(load_file(saved / "model.safetensors"), load_file(tmp_path / "hf" / "model.safetensors"))
    before, after = (LlavaForConditionalGeneration.from_pretrained(path).config for path in (saved, tmp_path / "hf"))
    ours, theirs = before.to_dict(), after.to_dict()
    for name in ("image_token_index", "text_vocab_size", "vision_feature_layer", "image_seq_length"):
        assert ours[name] == theirs[name], name
    for part in ("text_config", "vision_config"):
        different = {key for key in ours[part] | theirs[part] if ours[part].get(key) != theirs[part].get(key)}
        assert different <= {"dtype", "architectures", "use_cache"}, part
    for name in ("processor_config.json", "tokenizer.json"):
        assert json.loads((saved / name).read_bytes()) == json.loads((tmp_path / "hf" / name).read_bytes())


def test_converting_from_llava_and_back_keeps_every_tensor(llava: Path, tmp_path: Path) -> None:
    assert convert("hf", llava, tmp_path / "hf") == 0
    assert convert("llava", tmp_path / "hf", tmp_path / "llava") == 0
    for name in ("text_model_llava/model.safetensors", "image_model/model.safetensors"):
        assert_same_tensors(load_file(llava / name), load_file(tmp_path / "llava" / name))


def test_a_checkpoint_of_the_authors_without_image_token_is_unchanged_after_a_round_trip(
    llava: Path, tmp_path: Path
) -> None:
    """Its weights are torch files in half precision, with a second copy of the image model."""
    theirs = tmp_path / "llava-v1.5-7b"
    shutil.copytree(llava / "text_model_llava", theirs)
    (theirs / "image_token_rows.safetensors").unlink()
    config = json.loads((theirs / "config.json").read_bytes())
    del config["image_token_index"]
    (theirs / "config.json").write_text(json.dumps(config))
    weights = {name: tensor.half() for name, tensor in load_file(theirs / "model.safetensors").items()}
    (theirs / "model.safetensors").unlink()
    copy = {"model.vision_tower.vision_tower.vision_model.post_layernorm.bias": torch.zeros(32).half()}
    names = sorted(weights)
    torch.save({name: weights[name] for name in names[:5]}, theirs / "pytorch_model-00001-of-00002.bin")
    torch.save({name: weights[name] for name in names[5:]} | copy, theirs / "pytorch_model-00002-of-00002.bin")
    assert convert("hf", theirs, tmp_path / "hf") == 0
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf")
    assert model.config.image_token_index == 1800
    assert model.config.text_config.vocab_size == 1856
    assert convert("llava", tmp_path / "hf", tmp_path / "again") == 0
    assert_same_tensors(weights, load_file(tmp_path / "again" / "text_model_llava" / "model.safetensors"))


def test_names_and_config_are_those_read_by_the_authors_code(llava: Path) -> None:
    """llava/model/builder.py, llava_arch.py, multimodal_encoder/clip_encoder.py of haotian-liu/LLaVA."""
    tensors = load_file(llava / "text_model_llava" / "model.safetensors")
    assert {name for name in tensors if "mm_projector" in name} == {
        f"model.mm_projector.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")
    }
    outside = {name for name in tensors if not name.startswith(("model.layers.", "model.mm_projector."))}
    assert outside == {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    assert len(tensors["lm_head.weight"]) == len(tensors["model.embed_tokens.weight"]) == 1800
    config = json.loads((llava / "text_model_llava" / "config.json").read_bytes())
    assert config["architectures"] == ["LlavaLlamaForCausalLM"]
    assert config["model_type"] == "llava_llama"
    assert config["mm_vision_tower"] == str(llava.resolve() / "image_model")
    assert config["mm_projector_type"] == "mlp2x_gelu"
    assert (config["mm_hidden_size"], config["hidden_size"], config["vocab_size"]) == (32, 64, 1800)
    assert (config["mm_vision_select_layer"], config["mm_vision_select_feature"]) == (-2, "patch")
    assert config["image_aspect_ratio"] == "pad"
    assert config["use_mm_proj"] is True
    assert config["mm_use_im_patch_token"] is False, "or the authors' code adds a token with a random row"
    assert config["mm_use_im_start_end"] is False


def test_the_image_model_is_an_ordinary_clip_vision_model(saved: Path, llava: Path) -> None:
    model, found = CLIPVisionModel.from_pretrained(llava / "image_model", output_loading_info=True)
    assert not any(found.values())
    ours = LlavaForConditionalGeneration.from_pretrained(saved).model.vision_tower
    assert_same_tensors(ours.state_dict(), model.state_dict())
    names = load_file(llava / "image_model" / "model.safetensors")
    assert all(name.startswith("vision_model.") for name in names), "as in openai/clip-vit-large-patch14-336"
    settings = json.loads((llava / "image_model" / "preprocessor_config.json").read_bytes())
    assert settings["crop_size"] == {"height": 56, "width": 56}
    assert settings["image_processor_type"].startswith("CLIPImageProcessor")


def test_the_converted_tokenizer_has_the_size_of_the_vocabulary_and_no_image_token(llava: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llava / "text_model_llava")
    assert len(tokenizer) == 1800
    assert "<image>" not in tokenizer.get_vocab()
    text = "USER: What is this? ASSISTANT: A red circle."
    assert tokenizer(text).input_ids == AutoTokenizer.from_pretrained(QUICKSTART / "tokenizer")(text).input_ids


def test_without_tokenizer_model_the_user_is_warned(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert("llava", saved, tmp_path / "llava") == 0
    stderr = capsys.readouterr().err
    assert f"warning: {saved} has no tokenizer.model, so the LLaVA authors' code cannot load the tokenizer" in stderr
    config = json.loads((tmp_path / "llava" / "text_model_llava" / "tokenizer_config.json").read_bytes())
    assert config["tokenizer_class"] == "LlamaTokenizer", "a name that transformers 4.37 supports"


def test_a_folder_with_tokenizer_model_is_converted_in_both_directions(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The authors' code saves no `tokenizer.json`; transformers creates one with protobuf."""
    given = QUICKSTART / "tokenizer_sentencepiece"
    assert convert("llava", saved, tmp_path / "llava", "--tokenizer", str(given)) == 0
    assert capsys.readouterr().err == ""
    text_folder = tmp_path / "llava" / "text_model_llava"
    assert (text_folder / "tokenizer.model").read_bytes() == (given / "tokenizer.model").read_bytes()
    assert not (text_folder / "tokenizer.json").exists()
    assert convert("hf", tmp_path / "llava", tmp_path / "hf") == 0
    text = "USER: <image>\nWhat   is this? ASSISTANT: A red circle.</s>USER: Why?"
    ours, theirs = (AutoTokenizer.from_pretrained(folder)(text).input_ids for folder in (saved, tmp_path / "hf"))
    assert ours == theirs


def test_a_wrong_tokenizer_is_refused_and_nothing_is_written(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert("llava", saved, tmp_path / "out", "--tokenizer", str(QUICKSTART / "tokenizer")) == 2
    assert "has no tokenizer.model, which the LLaVA authors' code loads" in capsys.readouterr().err
    other = tmp_path / "other"
    shutil.copytree(QUICKSTART / "tokenizer_sentencepiece", other)
    model = (other / "tokenizer.model").read_bytes()
    (other / "tokenizer.model").write_bytes(model.replace("▁the".encode(), "▁xhe".encode(), 1))
    assert convert("llava", saved, tmp_path / "out", "--tokenizer", str(other)) == 2
    assert "is '▁xhe', but '▁the' in the tokenizer of" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


def test_a_wrong_tokenizer_in_the_folder_is_refused_before_the_weights_are_saved(
    llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(llava, tmp_path / "llava")
    path = tmp_path / "llava" / "text_model_llava" / "tokenizer.json"
    document = json.loads(path.read_bytes())
    document["added_tokens"].append({**document["added_tokens"][-1], "id": 1800, "content": "<extra>"})
    path.write_text(json.dumps(document))
    for _ in range(2):  # the same message when it is tried again
        assert convert("hf", tmp_path / "llava", tmp_path / "hf") == 2
        assert "<image> has id 1801 in the tokenizer, but 1800 in the weights" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["llava"]


def test_a_failed_conversion_leaves_no_files(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.convert.make_processor", full)  # after the weights
    assert convert("hf", llava, tmp_path / "hf") == 1
    assert "No space left on device; nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_rope_scaling_is_kept_in_both_directions(llava: Path, tmp_path: Path) -> None:
    """The authors' code uses transformers 4.37, which accepts `type` and `factor` and no other key."""
    shutil.copytree(llava, tmp_path / "llava")
    path = tmp_path / "llava" / "text_model_llava" / "config.json"
    scaling = {"type": "linear", "factor": 2.0}
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"rope_scaling": scaling}))
    assert convert("hf", llava, tmp_path / "plain") == 0
    assert convert("hf", tmp_path / "llava", tmp_path / "scaled") == 0
    plain, scaled = (
        LlavaForConditionalGeneration.from_pretrained(tmp_path / name).model.language_model.rotary_emb.inv_freq
        for name in ("plain", "scaled")
    )
    assert torch.equal(scaled, plain / 2)
    assert convert("llava", tmp_path / "scaled", tmp_path / "again") == 0
    config = json.loads((tmp_path / "again" / "text_model_llava" / "config.json").read_bytes())
    assert config["rope_scaling"] == scaling


def test_rope_scaling_that_the_authors_code_does_not_support_is_refused(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(saved, tmp_path / "saved", ignore=shutil.ignore_patterns("checkpoint-*"))
    path = tmp_path / "saved" / "config.json"
    config = json.loads(path.read_bytes())
    config["text_config"]["rope_parameters"] |= {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": 1024,
    }
    path.write_text(json.dumps(config))
    assert convert("llava", tmp_path / "saved", tmp_path / "out") == 2
    assert "has rope_type 'yarn', which the LLaVA authors' code does not support" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("it_ran"),)


def test_code_in_a_weights_file_is_not_executed(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(llava, tmp_path / "llava")
    text_folder = tmp_path / "llava" / "text_model_llava"
    (text_folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": _Runs()}, text_folder / "pytorch_model.bin")
    assert convert("hf", tmp_path / "llava", tmp_path / "hf") == 2
    stderr = capsys.readouterr().err
    assert "pytorch_model.bin: is damaged, or holds objects other than tensors" in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "it_ran").exists()


def test_the_converted_model_generates_the_same_tokens(saved: Path, llava: Path, tmp_path: Path) -> None:
    assert convert("hf", llava, tmp_path / "hf") == 0
    from PIL import Image

    picture = Image.new("RGB", (80, 40), (200, 30, 30))
    answers = []
    for folder in (saved, tmp_path / "hf"):
        processor = AutoProcessor.from_pretrained(folder)
        inputs = processor(images=picture, text="USER: <image>\nWhat is this? ASSISTANT:", return_tensors="pt")
        assert int((inputs["input_ids"] == 1800).sum()) == 16
        model = LlavaForConditionalGeneration.from_pretrained(folder)
        answers.append(model.generate(**inputs, max_new_tokens=8, do_sample=False).tolist())
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["llava", "/no/such"], "/no/such: no such folder"),
        (["hf", "empty"], "config.json: is missing"),
        (["llava", "empty"], "/empty: cannot be loaded (OSError: "),
        (
            ["hf", "saved"],
            "config.json: has mm_projector_type None, expected mlp2x_gelu; give a LLaVA-1.5 model of the",
        ),
    ],
)
def test_a_wrong_folder_is_refused_in_one_sentence_with_exit_code_2(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    folder = {"empty": tmp_path / "empty", "saved": saved}.get(arguments[1], Path(arguments[1]))
    assert convert(arguments[0], folder, tmp_path / "out") == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert stderr.startswith("trainer.convert: ")
    assert stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_tensor_is_named_and_nothing_is_overwritten(
    llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(llava, tmp_path / "llava")
    path = tmp_path / "llava" / "text_model_llava" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.mm_projector.2.bias"]
    save_file(tensors, path, metadata={"format": "pt"})
    assert convert("hf", tmp_path / "llava", tmp_path / "hf") == 2
    assert "tensor model.mm_projector.2.bias is missing" in capsys.readouterr().err
    assert convert("hf", llava, tmp_path / "llava") == 2
    assert "is not empty" in capsys.readouterr().err
