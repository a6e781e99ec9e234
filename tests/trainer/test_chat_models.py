"""LLaVA with current language models: trained on their own templates, saved, loaded, prompted with the ids of rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import QUICKSTART, create, needs_shared, shared_folder, turn_pair, write_jsonl

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

import tokenizers  # noqa: E402
from small import IMAGES, PICTURES, logged, values  # noqa: E402
from tokenizers import AddedToken  # noqa: E402
from transformers import AutoProcessor, LlavaForConditionalGeneration  # noqa: E402

from hdf5_writer.config import build_config  # noqa: E402
from preprocess.templates.chat import Token  # noqa: E402
from preprocess.templates.named import CHAT_TEMPLATES  # noqa: E402
from trainer.params import Params  # noqa: E402
from trainer.processor import make_image_processor, make_processor  # noqa: E402
from trainer.prompt_tokenizer import image_token_id, load_prompt_tokenizer  # noqa: E402
from trainer.run import main  # noqa: E402

FAMILIES = {"qwen2": "chatml", "phi3": "phi_3", "gemma": "gemma"}
TOKENIZERS = {
    "chatml": "qwen2_5",
    "chatml_qwen": "qwen2_5",
    "llama_3": "llama3",
    "llama_3.1": "llama3",
    "phi_3": "phi3",
    "phi_3_bos": "phi3_april",
    "gemma": "gemma",
    "mistral_v3": "mistral_v3",
    "mistral_tekken": "mistral_tekken",
}
SMALL = ("phi_3", "phi_3_bos", "mistral_v3")
LARGE = tuple(style for style in TOKENIZERS if style not in SMALL)


def tokenizer_with(tokens: list[str], folder: Path) -> str:
    """The embedded tokenizer with more special tokens."""
    tokenizer = tokenizers.Tokenizer.from_file(str(QUICKSTART / "tokenizer" / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((QUICKSTART / "tokenizer" / "tokenizer_config.json").read_bytes())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return str(folder)


def special_tokens(style: str) -> list[str]:
    template = CHAT_TEMPLATES[style]
    parts = (template.opening, template.system, template.user, template.answer_header, template.answer)
    pieces = [piece for part in (*parts, template.closing) for piece in part or ()]
    return list(dict.fromkeys(piece.spelling for piece in pieces if isinstance(piece, Token)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_model_family_trains_on_its_own_template_and_prompts_have_the_ids_of_rows(kind: str, tmp_path: Path) -> None:
    style = FAMILIES[kind]
    tokenizer = tokenizer_with(special_tokens(style), tmp_path / "tokenizer")
    turns = [turn_pair("<image>\nWhat is this?", f"Answer {i}.") + turn_pair("Sure?", "Yes.") for i in range(8)]
    records = [{"image": PICTURES[i], "conversations": turn} for i, turn in enumerate(turns)]
    write_jsonl(tmp_path / "in" / "a.jsonl", records)
    config: dict[str, dict[str, Any]] = {
        "setup": {"input_dir": str(tmp_path / "in"), "output_dir": str(tmp_path / "data"), "processes": 1},
        "processor": {"tokenizer_type": tokenizer, "max_sequence_length": 96},
        "dataset": {"image_dir": str(IMAGES), "system_prompt_style": style, "image_size": 56, "patch_size": 14},
    }
    config["setup"]["shuffle"] = False
    create(build_config(config, "test", tmp_path))
    params = values(
        train_input__data_dir=str(tmp_path / "data"),
        runconfig__max_steps=6,
        runconfig__log_steps=1,
        runconfig__precision="fp32",
    )
    text = params["model"]["text_model"]
    text |= {"tokenizer": tokenizer, "model_type": kind, "num_key_value_heads": 2, "vocab_size": 1900}
    if kind == "gemma":
        text["head_dim"] = 32
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    assert main(["--params", str(tmp_path / "params.yaml"), "--model_dir", str(tmp_path / "model")]) == 0
    losses = logged(tmp_path / "model", "loss")
    assert losses[-1] < losses[0]
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert model.config.text_config.model_type == kind
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    check_prompts_of_rows(processor, tmp_path / "data", turns)


def check_prompts_of_rows(processor: Any, data: Path, turns: list[Any]) -> None:
    from hdf5_writer.layout import OutputLayout
    from hdf5_writer.planning.plan import read_plan
    from hdf5_writer.stages import Stages, warm_tokenizer

    config = read_plan(OutputLayout(data)).config
    stages = Stages(config, warm_tokenizer(config))
    for conversations in turns:
        sample = stages.encode(stages.read({"image": PICTURES[0], "conversations": conversations}, "llava"))
        ids = sample.ids.tolist()
        for position in reversed(sample.image_at):
            ids.insert(position, image_token_id(processor.tokenizer))
        prompt = prompt_of(
            stages.renderer.render(stages.validate({"image": PICTURES[0], "conversations": conversations}, "llava")),
            stages.tokenizer.tokens,
        )
        assert processor.tokenizer(prompt, add_special_tokens=False)["input_ids"] == ids
        roles = {"human": "user", "gpt": "assistant"}
        messages = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in conversations]
        assert processor.apply_chat_template(messages) == prompt


def prompt_of(segments: list[Any], tokens: tuple[str, ...]) -> str:
    from preprocess.segments import Special, Text

    return "".join(
        part.text if isinstance(part, Text) else tokens[part.id] if isinstance(part, Special) else "<image>"
        for found in segments
        for part in getattr(found, "segments", [found])  # those of `ConstantSegments`
    )


@pytest.mark.slow
@needs_shared("golden/modern")
@needs_shared("tokenizers")
@pytest.mark.parametrize(
    "style",
    # Large vocabularies take seconds to load.
    [*SMALL, *(pytest.param(style, marks=pytest.mark.long) for style in LARGE)],
)
def test_the_saved_processor_gives_the_ids_of_every_golden(style: str, tmp_path: Path) -> None:
    from preprocess.config import DatasetConfig
    from preprocess.conversation import read_conversation
    from preprocess.record_keys import RecordKeys
    from preprocess.templates import renderer_for
    from preprocess.tokenize.tokenizer import load_tokenizer

    source = shared_folder("tokenizers") / TOKENIZERS[style]
    rows = load_tokenizer(str(source))
    renderer = renderer_for(DatasetConfig(system_prompt_style=style), rows)
    tokenizer = load_prompt_tokenizer(str(source), "test", image_starts_new_text=False)
    images = make_image_processor({}, image_size=14, pad=False)
    make_processor(tokenizer, images, patch_size=14).save_pretrained(tmp_path)
    saved = AutoProcessor.from_pretrained(tmp_path).tokenizer
    token = image_token_id(saved)
    for part in ("", ".multi"):
        lines = (shared_folder("golden/modern") / f"{style}{part}.jsonl").read_text(encoding="utf-8").split("\n")
        goldens = [json.loads(line) for line in lines if line]
        prompts = []
        for golden in goldens:
            record = golden["record"]
            places = sum(turn["value"].count("<image>") for turn in record["conversations"])
            record = record | {"image": ["a"] * places}
            conversation = read_conversation(
                record,
                RecordKeys(),
                image_in_front=False,
                takes_system=renderer.traits.takes_system,
                max_images=9,
                empty_answer="keep",
            )
            prompts.append(prompt_of(renderer.render(conversation), rows.tokens))
        made = saved(prompts, add_special_tokens=False)["input_ids"]
        for golden, ids in zip(goldens, made, strict=True):
            assert [-200 if id_ == token else id_ for id_ in ids] == golden["input_ids"], golden["record"]["id"]


def test_model_type_is_refused_for_a_pretrained_model() -> None:
    params = values()
    params["model"]["text_model"] = {"pretrained": "x", "model_type": "qwen2"}
    with pytest.raises(ValueError, match="model_type is only for random weights"):
        Params.model_validate(params)
