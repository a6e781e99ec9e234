"""`instructions requests`: its files and counts, wrong arguments, and kills."""

import json
import re

import orjson
import pytest
import yaml
from coco_files import dog, write_coco
from conftest import CHECKOUT, needs_shared, shared_folder
from interruption import contents, killed_at
from tokenizers import Tokenizer

from preprocess.converters.core.errors import InputError
from preprocess.converters.instruction_data import requests as requests_module
from preprocess.converters.instruction_data.cost import tokens_of
from preprocess.converters.instruction_data.kinds import Kind, parse_custom_id
from preprocess.converters.instruction_data.prompts import load_prompt


@pytest.fixture
def requests(preprocess, tmp_path):
    """Run the step on some images; the result has the records of every written file."""

    def run(images, *arguments, out="out"):
        captions, instances = write_coco(tmp_path / "annotations", images)
        command = ["instructions", "requests", "--captions", captions, "--output_dir", tmp_path / out, "--model", "m"]
        return preprocess(*command, "--instances", instances, *arguments, into=tmp_path / out)

    run.out = tmp_path / "out"
    return run


def sent(folder):
    return [json.loads(line) for path in sorted(folder.glob("requests-*.jsonl")) for line in path.open("rb")]


def test_each_image_has_a_request_of_each_kind_and_the_last_message_is_the_context(requests):
    result = requests([dog(7), dog(8)])
    assert result.code == 0
    assert "2 images read = 2 written + 0 rejected" in result.out
    lines = sent(requests.out)
    assert [line["custom_id"] for line in lines] == [
        f"{kind}_{number}" for number in (7, 8) for kind in ("conversation", "detail", "reasoning")
    ]
    captions = "A dog on the grass.\nA brown dog plays with a ball."
    boxes = "dog: [0.24, 0.1, 0.75, 1.0]\nsports ball: [0.8, 0.905, 0.901, 1.0]"
    contexts = [line["body"]["messages"][-1] for line in lines[:3]]
    assert contexts[0] == {"role": "user", "content": captions}
    assert contexts[1] == contexts[2] == {"role": "user", "content": f"{captions}\n\n{boxes}"}
    images = [json.loads(line) for line in (requests.out / "images.jsonl").open("rb")]
    assert images == [{"image_id": str(n), "image": f"{n:012d}.jpg"} for n in (7, 8)]


def test_a_request_is_a_line_of_the_batch_api(requests):
    requests([dog()], "--kinds", "detail", "--max_tokens", "300", "--body", '{"temperature": 0.7}')
    (line,) = sent(requests.out)
    assert list(line) == ["custom_id", "method", "url", "body"]
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    body = line["body"]
    assert (body["model"], body["max_completion_tokens"], body["temperature"]) == ("m", 300, 0.7)
    assert [message["role"] for message in body["messages"]] == ["system", *["user", "assistant"] * 2, "user"]


def test_request_lines_parse_as_the_types_of_the_openai_package(requests):
    openai_types = pytest.importorskip("openai.types.chat.completion_create_params")
    from pydantic import ConfigDict, TypeAdapter, with_config

    requests([dog()], "--body", '{"temperature": 0.7, "seed": 1}')
    strict = with_config(ConfigDict(extra="forbid"))(openai_types.CompletionCreateParamsNonStreaming)
    for line in sent(requests.out):
        parsed = TypeAdapter(strict).validate_python(line["body"])
        assert {key: value for key, value in parsed.items() if key != "messages"} == {
            key: value for key, value in line["body"].items() if key != "messages"
        }
        assert [set(message) for message in parsed["messages"]] == [{"content", "role"}] * 6


def test_request_lines_parse_as_the_types_of_the_batch_runner_of_vllm(requests):
    run_batch = pytest.importorskip("vllm.entrypoints.launchers.run_batch", reason="needs vllm; read with 0.33.0")
    requests([dog()], "--body", '{"temperature": 0.7, "seed": 1}')
    for line in sent(requests.out):
        parsed = run_batch.BatchRequestInput.model_validate(line)
        assert not parsed.model_extra
        assert not parsed.body.model_extra
        assert parsed.body.model_dump(include=set(line["body"])) == line["body"]


def test_files_are_split_at_the_limits_of_the_batch_api(requests, monkeypatch):
    assert (requests_module.MOST_LINES, requests_module.MOST_BYTES) == (50_000, 200_000_000)
    monkeypatch.setattr(requests_module, "MOST_LINES", 4)
    requests([dog(number) for number in range(1, 4)], "--kinds", "conversation", "detail")
    by_lines = {path.name: len(path.read_bytes().splitlines()) for path in requests.out.glob("requests-*")}
    assert by_lines == {"requests-00000.jsonl": 4, "requests-00001.jsonl": 2}

    monkeypatch.setattr(requests_module, "MOST_BYTES", 9_000)
    requests([dog(number) for number in range(1, 4)], "--kinds", "conversation", "detail", "--overwrite")
    sizes = [path.stat().st_size for path in sorted(requests.out.glob("requests-*"))]
    assert len(sizes) > 2
    assert max(sizes) <= 9_000
    assert len(sent(requests.out)) == 6


def test_a_limit_samples_by_seed_and_a_smaller_limit_gives_a_subset(requests):
    images = [dog(number) for number in range(1, 31)]

    def drawn(*arguments):
        requests(images, "--kinds", "detail", "--overwrite", *arguments)
        return [int(parse_custom_id(line["custom_id"])[1]) for line in sent(requests.out)]

    ten, five, other = drawn("--limit", 10), drawn("--limit", 5), drawn("--limit", 10, "--seed", 1)
    assert (len(ten), len(five), len(other)) == (10, 5, 10)
    assert set(five) < set(ten) != set(other)
    assert ten == sorted(ten)
    assert drawn("--limit", 99) == list(range(1, 31))


def test_an_image_that_cannot_be_described_is_rejected_with_its_place(requests, write_json, preprocess, tmp_path):
    captions, instances = write_coco(tmp_path / "annotations", [dog(number) for number in range(1, 7)])
    asked, located = json.loads(captions.read_text()), json.loads(instances.read_text())
    asked["annotations"] = [entry for entry in asked["annotations"] if entry["image_id"] != 1]
    asked["annotations"].append({"image_id": 99, "caption": "of another file"})
    asked["images"] += [{"id": 2, "file_name": "again.jpg"}, {"file_name": "x.jpg"}, {"id": 3, "file_name": "../x"}, 5]
    located["images"] = [entry for entry in located["images"] if entry["id"] != 3]
    for entry in located["annotations"]:
        if entry["image_id"] == 4:
            entry["bbox"] = [1, 2, None, 4]
        if entry["image_id"] == 5:
            entry["category_id"] = 12345
    write_json(captions, asked)
    write_json(instances, located)
    command = ["instructions", "requests", "--captions", captions, "--instances", instances, "--model", "m"]
    result = preprocess(*command, "--output_dir", tmp_path / "out", into=tmp_path / "out")
    assert result.code == 0
    assert sorted(result.reasons) == [
        ("element 0", "no_caption"),
        ("element 2", "no_image"),
        ("element 3", "bad_box"),
        ("element 4", "bad_box"),
        ("element 6", "duplicate_id"),
        ("element 7", "no_id"),
        ("element 8", "image_outside_prefix"),
        ("element 9", "not_an_object"),
    ]
    assert "10 images read = 2 written + 8 rejected" in result.out
    assert "not used: 1 annotations of images that captions_x.json does not list" in result.out
    assert [line["custom_id"] for line in sent(tmp_path / "out")][::3] == ["conversation_2", "conversation_6"]


def test_a_line_break_in_a_caption_does_not_break_the_layout(requests):
    requests([dog(captions=[" A dog\n on grass.\n", "A dog."])], "--kinds", "detail")
    (line,) = sent(requests.out)
    assert line["body"]["messages"][-1]["content"].startswith("A dog on grass.\nA dog.\n\ndog: ")


def test_the_estimated_cost_is_printed_before_requests_are_sent(requests):
    result = requests([dog(7), dog(8)], "--price_per_million", 1000, 2000, "--max_tokens", 100)
    sent_tokens, expected = (
        int(number.replace(",", ""))
        for number in re.search(r"6 requests, about ([\d,]+) input tokens and ([\d,]+) output", result.out).groups()
    )
    assert 0 < expected <= 600
    assert "(at most 600)" in result.out
    about = sent_tokens / 1000 + expected / 500
    most = sent_tokens / 1000 + 1.2
    assert f"about {about:,.2f}, at most {most:,.2f}; per 1,000 images: about {about * 500:,.2f}, at" in result.out


@pytest.mark.slow
@needs_shared("tokenizers")
@needs_shared("conversations")
@pytest.mark.parametrize("folder", ["llama3", "qwen2_5", "llama2-json"])
def test_the_estimate_is_close_to_the_counts_of_real_tokenizers(requests, folder):
    known = shared_folder("conversations") / "llava_caps_boxes_80.jsonl"
    requests([json.loads(line) for line in known.open("rb")])
    tokenizer = Tokenizer.from_file(str(shared_folder("tokenizers") / folder / "tokenizer.json"))
    texts = [message["content"] for line in sent(requests.out) for message in line["body"]["messages"]]
    counted = sum(len(each.ids) for each in tokenizer.encode_batch(texts, add_special_tokens=False))
    assert 0.8 < sum(map(tokens_of, texts)) / counted < 1.1


def test_repeating_the_command_does_nothing_and_another_command_is_refused(requests):
    requests([dog()])
    before = contents(requests.out)
    assert "finished earlier, nothing to do" in requests([dog()]).out
    assert contents(requests.out) == before
    refused = requests([dog()], "--max_tokens", "5")
    assert refused.code == 2
    assert "max_tokens was 1024 and is 5 now" in refused.err
    assert contents(requests.out) == before


def test_requests_with_answers_are_not_replaced(requests):
    requests([dog()])
    (requests.out / "results.jsonl").write_bytes(b"")
    refused = requests([dog()], "--max_tokens", "5", "--overwrite")
    assert refused.code == 2
    assert "results.jsonl contains answers" in refused.err


@pytest.mark.faults
def test_a_rerun_after_a_kill_at_any_write_flush_or_rename_gives_the_same_files(tmp_path):
    captions, instances = write_coco(tmp_path, [dog(number) for number in (1, 2)] + [dog(3, captions=[])])
    command = ["instructions", "requests", "--captions", str(captions), "--instances", str(instances), "--model", "m"]
    whole = tmp_path / "whole"
    assert not killed_at(10**6, [*command, "--output_dir", str(whole)])
    step = 1
    while True:
        out = tmp_path / f"killed_{step}"
        killed = killed_at(step, [*command, "--output_dir", str(out)])
        if killed:
            assert not killed_at(10**6, [*command, "--output_dir", str(out)])
        assert contents(out) == contents(whole)
        if not killed:
            break
        step += 1
    assert step > 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--body", "[]"], "--body is '[]', expected a JSON object"),
        (["--body", '{"n": 2}'], "--body sets 'n'"),
        (["--kinds", "conversation"], "the kind conversation does not use boxes; remove it"),
        (["--prompts", "nowhere"], "--prompts is nowhere, which has no conversation.yaml"),
    ],
)
def test_invalid_arguments_are_refused_in_one_sentence(requests, arguments, message):
    result = requests([dog()], *arguments)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not requests.out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--price_per_million", "-1", "2"], "'-1' is not a price, expected a number of at least 0"),
        (["--model", " "], "the name is empty"),
        (["--limit", "some"], "'some' is not a whole number above 0"),
    ],
)
def test_invalid_values_are_a_usage_error(requests, arguments, message):
    result = requests([dog()], *arguments)
    assert result.code == 2
    assert message in result.err
    assert not requests.out.exists()


def test_files_of_two_splits_are_refused_in_one_sentence(preprocess, tmp_path):
    captions, _ = write_coco(tmp_path / "train", [dog(1)])
    _, instances = write_coco(tmp_path / "val", [dog(2)])
    command = ["instructions", "requests", "--captions", captions, "--instances", instances, "--model", "m"]
    result = preprocess(*command, "--output_dir", tmp_path / "out", into=tmp_path / "out")
    assert result.code == 2
    assert "give both files of the same split" in result.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not JSON\n", "byte 0: found 'n', expected an object with 'images'; check that this is the right file"),
        ('{"a": 1}\n{"a": 2}\n', "found '}' and no key 'images' among the keys 'a'; check that this is the right file"),
        ('{"images": [{"id": 1}, oops]}', "byte 23: expecting value; correct the file, or download it again"),
    ],
)
def test_a_wrong_captions_file_is_named_with_advice(preprocess, tmp_path, content, message):
    captions = tmp_path / "captions.json"
    captions.write_text(content)
    command = ["instructions", "requests", "--captions", captions, "--kinds", "conversation", "--model", "m"]
    result = preprocess(*command, "--output_dir", tmp_path / "out", into=tmp_path / "out")
    assert result.code == 2
    assert f"{captions}: byte" in result.err
    assert message in result.err


def test_boxes_are_required_only_by_kinds_that_use_them(preprocess, tmp_path):
    captions, _ = write_coco(tmp_path, [dog()])
    command = ["instructions", "requests", "--captions", captions, "--output_dir", tmp_path / "out", "--model", "m"]
    assert "--instances is missing" in preprocess(*command, into=tmp_path / "out").err
    assert preprocess(*command, "--kinds", "conversation", into=tmp_path / "out").code == 0


@pytest.mark.parametrize("kind", Kind)
def test_shipped_prompts_contain_two_examples_that_the_parser_accepts(kind):
    prompt = load_prompt(CHECKOUT / "configs" / "instructions" / f"{kind.value}.yaml", kind)
    assert len(prompt.examples) == 2
    assert bool(prompt.questions) == (kind is Kind.DETAIL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(sytem="x"), "sytem: extra inputs are not permitted"),
        (lambda values: values.pop("system"), "system: field required"),
        (lambda values: values.update(questions=["What?"]), "`questions` is only allowed in detail.yaml; remove it"),
        (lambda values: values["examples"][0].update(answer="Just text."), "examples.0.answer: part 1 begins"),
        (lambda values: values["examples"][1].update(boxes=[{"category": "a", "corners": [0, 0, 1, 1]}]), "no boxes"),
    ],
)
def test_a_custom_prompt_is_checked(requests, tmp_path, change, message):
    mine = tmp_path / "mine"
    mine.mkdir()
    for path in (CHECKOUT / "configs" / "instructions").glob("*.yaml"):
        (mine / path.name).write_bytes(path.read_bytes())
    values = yaml.safe_load((mine / "conversation.yaml").read_text())
    change(values)
    (mine / "conversation.yaml").write_text(yaml.safe_dump(values))
    result = requests([dog()], "--prompts", mine)
    assert result.code == 2
    assert message in result.err
    assert "conversation.yaml" in result.err


def test_a_prompt_for_details_without_questions_is_refused(tmp_path):
    path = tmp_path / "detail.yaml"
    path.write_text("system: Describe it.\n")
    with pytest.raises(InputError, match="`questions` is missing or empty, expected a list of questions; add it"):
        load_prompt(path, Kind.DETAIL)


def test_a_custom_prompt_is_used(requests, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for path in (CHECKOUT / "configs" / "instructions").glob("*.yaml"):
        (mine / path.name).write_bytes(path.read_bytes())
    (mine / "conversation.yaml").write_text("system: Ask about dogs.\n")
    requests([dog()], "--prompts", mine)
    first = orjson.loads((requests.out / "requests-00000.jsonl").open("rb").readline())
    assert [message["role"] for message in first["body"]["messages"]] == ["system", "user"]
    assert first["body"]["messages"][0]["content"] == "Ask about dogs."
