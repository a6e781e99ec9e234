"""Both pages in a real browser: they show what is on disk, make no requests and cause no errors."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, start_browser
from conftest import QUICKSTART, create, needs_shared, shared_folder, turn_pair, write_jsonl

from hdf5_writer.config import build_config
from hdf5_writer.inspect_hdf5 import main as inspect_main
from hdf5_writer.layout import OutputLayout
from hdf5_writer.report.page import write_report
from hdf5_writer.viewer.dataset import InspectedDataset

WIDTHS = pytest.mark.parametrize("width", [375, 1400])
HOSTILE = (
    '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1"> & </td></script> "quoted" {{ 7 * 7 }}'
)
COMMAND = "create_hdf5_dataset --config '<script>window.hacked = 1</script>'"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from start_browser()


def dataset_of(folder: Path, records: list[Any], **dataset: Any) -> Path:
    """Write a dataset of a few records with the embedded tokenizer and images."""
    write_jsonl(folder / "in" / "records.jsonl", records)
    values = {
        "setup": {"input_dir": str(folder / "in"), "output_dir": str(folder / "out"), "samples_per_shard": 20},
        "processor": {"tokenizer_type": str(QUICKSTART / "tokenizer"), "max_sequence_length": 1024},
        "dataset": {"image_dir": str(QUICKSTART / "images"), "system_prompt_style": "vicuna_v1", **dataset},
    }
    for key in ("tokenizer_type", "packing", "max_sequence_length"):
        if key in dataset:
            values["processor"][key] = values["dataset"].pop(key)
    create(build_config(values, "test", folder))
    return folder / "out"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded example, with a hostile record and some rejected records."""
    lines = (QUICKSTART / "phase_2" / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    records += [
        {"id": HOSTILE, "image": "shapes/0001.png", "conversations": turn_pair(f"<image>\n{HOSTILE}", HOSTILE)},
        {"id": "outside", "image": "../../secret.png", "conversations": turn_pair("<image>\nWhat?", "That.")},
        {"id": "gone", "image": f"{HOSTILE}.png", "conversations": turn_pair("<image>\nWhat?", "That.")},
        records[0],
    ]
    return dataset_of(tmp_path_factory.mktemp("example"), records)


def inspect(out: Path, *arguments: str) -> Path:
    assert inspect_main([str(out), *arguments]) == 0
    return OutputLayout(out).rows_page


def shown_supervised(browser: Browser) -> dict[int, list[tuple[int, int]]]:
    """Row → (position, id) of the tokens that the page shows as supervised."""
    found = browser.run(
        "return [...document.querySelectorAll('.row')].map((row) => [row.id, "
        "[...row.querySelectorAll('.tokens.supervised .t')].map((t) => [Number(t.dataset.p), Number(t.dataset.id)])])"
    )
    return {int(name.removeprefix("row-")): [tuple(token) for token in tokens] for name, tokens in found}


def stored_supervised(out: Path, numbers: list[int]) -> dict[int, list[tuple[int, int]]]:
    """The same, from `loss_mask` and `labels`: the loss at t is for the token at t + 1."""
    dataset = InspectedDataset(out)
    rows = [dataset.read(number) for number in numbers]
    return {row.number: [(t + 1, int(row.labels[t])) for t in row.loss_mask.nonzero()[0].tolist()] for row in rows}


def assert_no_errors_or_requests(browser: Browser) -> None:
    assert browser.console_messages() == []
    assert browser.requested_urls() == []
    assert browser.is_within_window()
    assert browser.run("return window.hacked === undefined && document.scripts.length <= 2")


@pytest.mark.slow
@WIDTHS
def test_supervised_tokens_on_the_page_match_loss_mask(browser: Browser, example: Path, width: int) -> None:
    browser.open(inspect(example, "--rows", "0:57"), width)
    shown = shown_supervised(browser)
    assert shown == stored_supervised(example, list(range(57)))
    assert sum(map(len, shown.values())) > 1000
    assert_no_errors_or_requests(browser)


@pytest.mark.slow
@WIDTHS
def test_the_page_makes_no_requests_even_with_hostile_records(browser: Browser, example: Path, width: int) -> None:
    dataset = InspectedDataset(example)
    (number,) = dataset.find_source("records.jsonl", 56, limit=1)
    browser.open(inspect(example, "--source", "records.jsonl:56"), width, dark=True)
    assert_no_errors_or_requests(browser)
    bubbles = browser.run("return [...document.querySelectorAll('.bubble')].map((b) => b.textContent)")
    assert any(HOSTILE in text for text in bubbles), "hostile text is shown as text"
    assert shown_supervised(browser) == stored_supervised(example, [number])


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of several samples, some with several images."""
    paths = [f"shapes/{number:04}.png" for number in range(1, 9)]
    records: list[Any] = [
        {"image": paths[:2], "conversations": turn_pair("<image>\n<image>\nWhat differs?", HOSTILE)},
        {"image": paths[2:6], "conversations": turn_pair("<image><image><image><image>\nOdd one?", "The third.")},
        {"image": paths[6:8], "conversations": turn_pair("Look at <image> first, then at <image> too.", "Done.")},
        {"conversations": [*turn_pair("Why?", "No."), *turn_pair("And?", "word " * 400)]},
        {"image": paths[0], "conversations": turn_pair("<image>\nWhat?", "A shape.")},
        {"conversations": turn_pair(HOSTILE, "Yes.")},
    ]
    folder = tmp_path_factory.mktemp("packed")
    return dataset_of(folder, records, packing="best_fit", max_sequence_length=3000, max_images=4)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
def test_supervised_tokens_of_packed_rows_match_loss_mask(browser: Browser, packed: Path, width: int) -> None:
    browser.open(inspect(packed), width)
    dataset = InspectedDataset(packed)
    rows = [dataset.read(number) for number in range(len(dataset))]
    assert max(len(row.samples) for row in rows) > 1
    assert shown_supervised(browser) == stored_supervised(packed, [row.number for row in rows])
    assert_no_errors_or_requests(browser)
    cards = browser.run("return [...document.querySelectorAll('.row')].map((r) => r.querySelectorAll('.side').length)")
    assert cards == [len(row.samples) for row in rows]
    pictures = browser.run("return [...document.images].map((i) => i.alt)")
    assert pictures == [image.path for row in rows for sample in row.samples for image in sample.images]
    inside = "return [...document.querySelectorAll('.bubble .thumb')].length"
    assert browser.run(inside) == 8, "images within a question are shown in its bubble"


@pytest.mark.slow
def test_the_report_of_packed_data_shows_its_rows(browser: Browser, packed: Path) -> None:
    browser.open(write_report(OutputLayout(packed), None), 390)
    assert_no_errors_or_requests(browser)
    rows = len(InspectedDataset(packed))
    assert browser.run("return document.querySelectorAll('#first-rows .row').length") == rows


@pytest.mark.slow
def test_every_kind_of_position_is_shown_with_its_count(browser: Browser, example: Path) -> None:
    dataset = InspectedDataset(example)
    numbers = [*dataset.find_text_only(1), *dataset.find_image("charts/0001.png", 1)]
    for number in numbers:
        row = dataset.read(number)
        browser.open(inspect(example, "--rows", f"{number}:{number + 1}"), 1400)
        tokens = browser.run("return document.querySelectorAll('.t').length")
        blocks = browser.run("return [...document.querySelectorAll('.block')].map((b) => [b.className, b.textContent])")
        kind = "image" if row.images else "masked"
        assert [name for name, _ in blocks] == [f"block {kind}", "block padding"]
        assert blocks[0][1].startswith("576 ")
        padding = int(re.match(r"[\d,]+", blocks[1][1])[0].replace(",", ""))  # type: ignore[index]
        assert padding == int((row.key_padding_mask != 0).sum()) - (576 if kind == "masked" else 0)
        assert tokens == row.used - 576 + 1, "the last token is a label only"


def test_hovering_over_a_token_shows_its_id_and_position(browser: Browser, example: Path) -> None:
    browser.open(inspect(example, "--rows", "0:1"), 1400)
    row = InspectedDataset(example).read(0)
    browser.run(
        "document.querySelector('.tokens.supervised .t').dispatchEvent(new Event('mouseover', {bubbles: true}))"
    )
    text = browser.run("return document.getElementById('token').textContent")
    at = int(row.loss_mask.nonzero()[0][0])
    assert f"id {row.labels[at]} · position {at + 1} · supervised, loss at {at}" in text


def test_four_short_rows_fit_on_one_screen(browser: Browser, tmp_path: Path) -> None:
    short = [
        {"image": f"shapes/000{i}.png", "conversations": turn_pair("<image>\nWhat is this?", "A shape.")}
        for i in range(1, 6)
    ]
    out = dataset_of(tmp_path, short)
    page = inspect(out)
    browser.open(page, 1400)
    browser.run("for (const fold of document.querySelectorAll('details')) fold.open = false")
    bottoms = browser.run("return [...document.querySelectorAll('.row')].map((r) => r.getBoundingClientRect().bottom)")
    assert bottoms[3] <= 900
    assert browser.run("return document.querySelectorAll('details.opening').length") == 1
    outside = "return [...document.querySelectorAll('.template')].every((f) => !f.closest('.bubble'))"
    assert browser.run(outside)
    assert "ASSISTANT:" in browser.run("return document.querySelector('.turn-text').textContent")


@pytest.mark.slow
def test_thumbnails_are_in_the_page_and_square(browser: Browser, example: Path) -> None:
    for option in ("square", "pad"):
        browser.open(inspect(example, "--image", "shapes/0012.png", "--image-aspect-ratio", option), 1400)
        images = browser.run(
            "return [...document.images].map((i) => [i.complete, i.naturalWidth, i.naturalHeight, i.src.slice(0, 22)])"
        )
        assert images == [[True, 168, 168, "data:image/jpeg;base64"]]


@pytest.mark.slow
@WIDTHS
def test_the_report_shows_the_counts_of_the_run(browser: Browser, example: Path, width: int) -> None:
    page = write_report(OutputLayout(example), COMMAND)
    for dark in (False, True):
        browser.open(page, width, dark=dark)
        assert_no_errors_or_requests(browser)
    counts = InspectedDataset(example).params.counts
    for key in ("read", "written", "rejected"):
        assert browser.run(f"return document.getElementById('{key}').textContent") == str(getattr(counts, key))
    assert browser.run("return document.getElementById('command').textContent") == COMMAND
    assert browser.run("return document.querySelectorAll('#rejects tbody tr').length") == 2
    heights = browser.run(
        "return [...document.querySelectorAll('td.reason code')].map((c) => c.getClientRects().length)"
    )
    assert heights == [1, 1], "a reason is not wrapped inside a word"
    assert browser.run("return document.querySelectorAll('#first-rows .row').length") == 5
    assert browser.run("return document.querySelectorAll('#findings li').length") >= 2
    rejects = browser.run("return document.getElementById('rejects').textContent")
    assert "image_outside" in rejects
    assert "records.jsonl:57" in rejects
    assert "<script>window.hacked" in rejects
    assert "1 sample" in browser.run("return document.getElementById('duplicates').textContent")
    assert browser.run("return document.querySelectorAll('figure img').length") == 7
    assert browser.run("return [...document.images].every((i) => i.complete && i.naturalWidth > 0)")


@pytest.mark.slow
@WIDTHS
def test_a_comparison_marks_the_tokens_that_differ(
    browser: Browser, example: Path, tmp_path: Path, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [json.loads(line) for line in (example.parent / "in" / "records.jsonl").read_text().splitlines()]
    other = dataset_of(tmp_path, records, system_prompt_style="llava_v1")
    browser.open(inspect(example, "--compare", str(other), "--most", "4"), width)
    assert_no_errors_or_requests(browser)
    changed = browser.run(
        "return [...document.querySelectorAll('.row')].map((row) => [...row.querySelectorAll('.side')].map((side) => "
        "[...side.querySelectorAll('.changed')].map((t) => t.textContent)))"
    )
    assert changed == [[["▁user", "▁user"], ["▁human", "▁human"]]] * 4
    assert "4 differ" in capsys.readouterr().out


@pytest.mark.slow
@needs_shared("golden")
@needs_shared("tokenizers")
@pytest.mark.parametrize(("style", "count"), [("llava_v1", 60), ("llama_2", 60)])
def test_golden_records_show_the_labels_of_the_authors(
    browser: Browser, tmp_path: Path, style: str, count: int
) -> None:
    """The tokens that the page shows as supervised are those that the LLaVA authors' code supervises."""
    lines = (shared_folder("golden") / f"mixed.{style}.jsonl").read_text(encoding="utf-8").splitlines()
    goldens = [json.loads(line) for line in (*lines[: count // 2], *lines[-count // 2 :])]
    out = dataset_of(
        tmp_path,
        [golden["record"] for golden in goldens],
        system_prompt_style=style,
        check_images="none",
        tokenizer_type=str(shared_folder("tokenizers") / "llama2-json"),
    )
    browser.open(inspect(out, "--rows", f"0:{count}"), 1400)
    shown = shown_supervised(browser)
    dataset = InspectedDataset(out)
    compared = 0
    for number, tokens in shown.items():
        row = dataset.read(number)
        golden = goldens[row.samples[0].line - 1]
        expected = [label for label in golden["labels"] if label != -100]
        if row.used < 1024:  # longer ones are truncated here
            assert [id_ for _, id_ in tokens] == expected
            compared += 1
    assert compared > count // 2
    assert browser.console_messages() == []
    assert browser.requested_urls() == []


@pytest.mark.slow
def test_the_browser_checks_detect_a_bad_page(browser: Browser, tmp_path: Path) -> None:
    """The checks used by the other tests detect requests, script errors and a page that is too wide."""
    (tmp_path / "near.css").write_text("b { color: red }")
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><link rel=stylesheet href=near.css><div style='width: 3000px'>x</div>"
        "<script>undefined_function()</script>"
    )
    browser.open(page, 375)
    assert any("undefined_function" in message for message in browser.console_messages())
    assert any(name.endswith("near.css") for name in browser.requested_urls())
    assert not browser.is_within_window()


@pytest.mark.slow
def test_data_uris_are_complete_images(example: Path) -> None:
    page = inspect(example, "--image", "shapes/0012.png").read_text(encoding="utf-8")
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', page)
    assert base64.b64decode(data)[-2:] == b"\xff\xd9"
