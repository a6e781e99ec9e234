"""The two shipped tiny params files on the embedded example, as docs/trainer.md runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import QUICKSTART, create

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from PIL import Image  # noqa: E402
from small import logged  # noqa: E402
from transformers import AutoProcessor, LlavaForConditionalGeneration  # noqa: E402

from hdf5_writer.config import read_config  # noqa: E402
from trainer.run import main  # noqa: E402

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which both phases ran, on the quickstart data in the templates vicuna_v1 and plain."""
    root = tmp_path_factory.mktemp("tiny")
    patch = pytest.MonkeyPatch()
    patch.chdir(root)
    create(read_config("quickstart.yaml"))
    plain = (
        "dataset.system_prompt_style=plain",
        "setup.input_dir=${config_dir}/quickstart/phase_1",
        "setup.output_dir=quickstart_output_phase_1",
    )
    create(read_config("quickstart.yaml", plain))
    assert main(["--params", "params_tiny_phase1.yaml", "--model_dir", "tiny_phase_1"]) == 0
    arguments = ["--params", "params_tiny_phase2.yaml", "--model_dir", "tiny_phase_2"]
    assert main([*arguments, "--checkpoint_path", "tiny_phase_1"]) == 0
    patch.undo()
    return root


def test_phase_1_then_phase_2_memorize_32_examples(folder: Path) -> None:
    phase_1, phase_2 = (logged(folder / f"tiny_phase_{phase}", "loss") for phase in (1, 2))
    assert phase_1[-1] < phase_1[0], "the projector alone can learn little with random weights around it"
    assert phase_2[-1] < min(phase_1[0], phase_2[0]) / 10
    # 55 rows, 32 in a batch, the rest left out, in stored order: every step sees the same 32.
    state = json.loads((folder / "tiny_phase_2" / "checkpoint-45" / "loader_state.json").read_bytes())["loader"]
    assert (state["epoch"], state["global_batch_size"], state["shuffle_seed"]) == (45, 32, None)


def test_the_saved_folder_is_an_ordinary_llava_model_that_answers_about_an_image(folder: Path) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(folder / "tiny_phase_2")
    processor = AutoProcessor.from_pretrained(folder / "tiny_phase_2")
    record = next(
        record
        for record in map(json.loads, (QUICKSTART / "phase_2" / "conversations.jsonl").read_text().splitlines())
        if "image" in record
    )
    question = record["conversations"][0]["value"].replace("<image>", "").strip()
    picture = {"type": "image", "image": Image.open(QUICKSTART / "images" / record["image"])}
    messages = [{"role": "user", "content": [picture, {"type": "text", "text": question}]}]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert int((inputs["input_ids"] == model.config.image_token_index).sum()) == 576
    answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert len(answer) >= 1
    assert int(answer.max()) < 1800, "only tokens that the tokenizer has"
    assert processor.tokenizer.decode(answer, skip_special_tokens=True).strip()
