"""`instructions read`: from results to conversations, and from annotations to shards."""

import json

import pytest
from coco_files import dog, write_coco
from conftest import InlineExecutor, SilentProgress, needs_shared, shared_folder
from interruption import contents, killed_at

from hdf5_writer.run import create_dataset

ROUNDS = "Question:\nWhat is it?\n===\nAnswer:\nA dog.\n===\nQuestion:\nWhere?\n===\nAnswer:\nOn grass."
TEXTS = {"conversation": ROUNDS, "reasoning": ROUNDS.replace("What is it", "Why"), "detail": "A dog lies on grass."}


def answer(request_id, text=None, **changes):
    text = TEXTS[request_id.split("_")[0]] if text is None else text
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", **changes}
    return result(request_id, {"status_code": 200, "request_id": "r", "body": {"choices": [choice]}})


def result(request_id, response, error=None):
    return {"id": "x", "custom_id": request_id, "response": response, "error": error}


@pytest.fixture
def asked(preprocess, tmp_path):
    """A folder with the requests about images 7 and 8."""
    captions, instances = write_coco(tmp_path / "annotations", [dog(7), dog(8)])
    command = ["instructions", "requests", "--captions", captions, "--instances", instances, "--model", "m"]
    assert preprocess(*command, "--output_dir", tmp_path / "asked", into=tmp_path / "asked").code == 0
    return tmp_path / "asked"


IDS = [f"{kind}_{number}" for number in (7, 8) for kind in ("conversation", "detail", "reasoning")]


@pytest.fixture
def read(preprocess, asked, tmp_path):
    """Run the step on result lines."""

    def run(results, *arguments):
        path = tmp_path / "results.jsonl"
        lines = [line if isinstance(line, str) else json.dumps(line) for line in results]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        command = ["instructions", "read", "--requests_dir", asked, "--results", path, "--image_prefix", "coco/train"]
        return preprocess(*command, "--output_dir", run.out, *arguments, into=run.out / "llava_jsonl")

    run.out = tmp_path / "out"
    return run


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_answer_becomes_a_conversation_about_its_image(read):
    outcome = read([answer(request_id) for request_id in IDS])
    assert outcome.code == 0
    assert "6 answers read = 6 written + 0 rejected" in outcome.out
    assert [record["id"] for record in outcome.records] == IDS
    assert {record["image"] for record in outcome.records} == {
        "coco/train/000000000007.jpg",
        "coco/train/000000000008.jpg",
    }
    for record in outcome.records:
        turns = record["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert [turn["value"].count("<image>") for turn in turns] == [1] + [0] * (len(turns) - 1)
    first = outcome.records[0]["conversations"]
    assert first[0]["value"] in ("<image>\nWhat is it?", "What is it?\n<image>")
    assert [turn["value"] for turn in first[1:]] == ["A dog.", "Where?", "On grass."]
    assert not (read.out / "retry.jsonl").exists()
    report = json.loads((read.out / "report.json").read_text())
    assert report["kinds"]["conversation"]["rounds"] == {"2": 2}
    assert report["kinds"]["detail"]["answer_words"] == {"shortest": 5, "median": 5, "longest": 5}


WRONG = [
    (answer(IDS[0], finish_reason="length"), "cut_off"),
    (answer(IDS[0], finish_reason="content_filter"), "refusal"),
    (answer(IDS[0], message={"role": "assistant", "content": None, "refusal": "No."}), "refusal"),
    (answer(IDS[0], message={"role": "assistant", "content": None}), "bad_response"),
    (answer(IDS[0], finish_reason=None), "bad_response"),
    (answer(IDS[0], message=None), "bad_response"),
    (answer(IDS[0], ROUNDS + "\n==="), "empty_part"),
    (result(IDS[0], {"status_code": 200, "body": {}}), "bad_response"),
    (result(IDS[0], None), "bad_response"),
    (result(IDS[0], {"status_code": 400, "body": {"error": {"message": "no"}}}), "http_error"),
    (result(IDS[0], {"status_code": 429, "body": None}, {"message": "slow down"}), "http_error"),
    (result(IDS[0], None, {"code": "batch_expired"}), "http_error"),
]


@pytest.mark.parametrize(("line", "reason"), WRONG)
def test_a_result_without_an_answer_is_rejected_and_its_request_is_listed_for_a_retry(read, asked, line, reason):
    outcome = read([line, *(answer(request_id) for request_id in IDS[1:])])
    assert "6 answers read = 5 written + 1 rejected" in outcome.out
    (reject,) = lines(read.out / "read.rejects.jsonl")
    assert (reject["custom_id"], reject["position"], reject["reason"]) == (IDS[0], "line 1", reason)
    retry = (read.out / "retry.jsonl").read_bytes()
    assert retry == (asked / "requests-00000.jsonl").read_bytes().splitlines(keepends=True)[0]


def test_unknown_repeated_unreadable_and_missing_results_are_rejects(read):
    strange = ["{", "[]", result("detail_99", None), result(None, None)]
    outcome = read([answer(IDS[0]), answer(IDS[0], "again"), *strange])
    assert "11 answers read = 1 written + 10 rejected" in outcome.out
    rejects = [(reject["custom_id"], reject["reason"]) for reject in lines(read.out / "read.rejects.jsonl")]
    assert rejects == [
        (IDS[0], "duplicate_id"),
        (None, "not_json"),
        (None, "not_an_object"),
        ("detail_99", "unknown_id"),
        (None, "unknown_id"),
        *((request_id, "no_answer") for request_id in IDS[1:]),
    ]
    assert [request["custom_id"] for request in lines(read.out / "retry.jsonl")] == IDS[1:]


def test_the_first_usable_answer_is_written(read):
    outcome = read([answer(IDS[1], "I cannot describe it."), answer(IDS[1], "A dog."), answer(IDS[1], "A cat.")])
    assert [record["conversations"][1]["value"] for record in outcome.records] == ["A dog."]
    reasons = [reject["reason"] for reject in lines(read.out / "read.rejects.jsonl")]
    assert reasons == ["refusal", "duplicate_id"] + ["no_answer"] * 5


@pytest.mark.slow
def test_questions_and_positions_of_the_image_depend_only_on_id_and_seed(read):
    results = [answer(request_id) for request_id in IDS]
    records = {record["id"]: record for record in read(results).records}
    turned = {record["id"]: record for record in read(results[::-1], "--overwrite").records}
    assert turned == records
    others = [read(results, "--overwrite", "--seed", seed).records for seed in range(1, 6)]
    firsts = {record["conversations"][0]["value"] for each in others for record in each if record["id"] == IDS[1]}
    assert len(firsts) > 1


def test_repeating_the_command_does_nothing_and_other_results_are_refused(read):
    results = [answer(request_id) for request_id in IDS]
    read(results)
    path = read.out.parent / "results.jsonl"
    before, stat = contents(read.out), path.stat()
    refused = read(results[:3])
    assert refused.code == 2
    assert "results.jsonl had" in refused.err
    assert contents(read.out) == before
    assert stat.st_size > path.stat().st_size


@pytest.mark.faults
def test_a_rerun_after_a_kill_at_any_write_flush_or_rename_gives_the_same_files(asked, tmp_path):
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps(answer(IDS[0])) + "\n{\n", encoding="utf-8")
    command = ["instructions", "read", "--requests_dir", str(asked), "--results", str(results), "--image_prefix", "c"]
    assert not killed_at(10**6, [*command, "--output_dir", str(tmp_path / "whole")])
    step, killed = 1, True
    while killed:
        out = tmp_path / f"killed_{step}"
        killed = killed_at(step, [*command, "--output_dir", str(out)])
        if killed:
            assert not killed_at(10**6, [*command, "--output_dir", str(out)])
        assert contents(out) == contents(tmp_path / "whole")
        step += 1
    assert step > 8


def test_requests_given_as_results_are_refused_in_one_sentence(preprocess, asked, tmp_path):
    command = ["instructions", "read", "--requests_dir", asked, "--results", asked / "requests-00000.jsonl"]
    outcome = preprocess(*command, "--image_prefix", "c", "--output_dir", tmp_path / "out", into=tmp_path / "out")
    assert outcome.code == 2
    assert "requests-00000.jsonl, which contains requests" in outcome.err


def test_a_folder_without_requests_is_refused_in_one_sentence(preprocess, tmp_path):
    (tmp_path / "empty").mkdir()
    results = tmp_path / "results.jsonl"
    results.write_text("")
    command = ["instructions", "read", "--requests_dir", tmp_path / "empty", "--results", results]
    outcome = preprocess(*command, "--image_prefix", "c", "--output_dir", tmp_path / "out", into=tmp_path / "out")
    assert outcome.code == 2
    assert "which has no requests-*.jsonl" in outcome.err


@pytest.mark.slow
@needs_shared("images")
def test_coco_annotations_become_shards(preprocess, tmp_path, make_config):
    coco = shared_folder("images") / "coco"
    annotations = [coco / "annotations" / f"{name}_train2017.json" for name in ("captions", "instances")]
    command = ["instructions", "requests", "--captions", annotations[0], "--instances", annotations[1], "--model", "m"]
    asked = tmp_path / "asked"
    assert preprocess(*command, "--output_dir", asked, into=asked).code == 0
    have = {path.name for path in (coco / "train2017").glob("*.jpg")}
    images = {line["image_id"]: line["image"] for line in lines(asked / "images.jsonl")}
    requests = [line["custom_id"] for path in sorted(asked.glob("requests-*")) for line in lines(path)]
    wanted = [request_id for request_id in requests if images[request_id.split("_")[1]] in have]
    assert len(wanted) == 3 * len(have) > 0

    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(answer(request_id)) + "\n" for request_id in wanted), encoding="utf-8")
    command = ["instructions", "read", "--requests_dir", asked, "--results", results, "--image_prefix", "train2017"]
    outcome = preprocess(*command, "--output_dir", tmp_path / "made", into=tmp_path / "made" / "llava_jsonl")
    assert len(outcome.records) == len(wanted)
    config = make_config(
        setup__input_dir=str(tmp_path / "made" / "llava_jsonl"),
        dataset__image_dir=str(coco),
        dataset__check_images="decode",
    )
    create_dataset(config, SilentProgress(), make_executor=InlineExecutor)
    params = json.loads((tmp_path / "out" / "data_params.json").read_text())
    assert (params["counts"]["read"], params["counts"]["written"]) == (len(wanted), len(wanted)), params["counts"]
