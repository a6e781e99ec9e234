"""The report agrees with counts computed from the shards, and its estimates with real runs."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import QUICKSTART, ConfigMaker, create, turn_pair, write_jsonl
from PIL import ExifTags, Image

from hdf5_writer import create_hdf5_dataset, inspect_hdf5
from hdf5_writer.fitting import fit_samples
from hdf5_writer.layout import OutputLayout
from hdf5_writer.planning.plan import read_plan
from hdf5_writer.receipts import all_receipts
from hdf5_writer.report import process
from hdf5_writer.report.__main__ import main as report_main
from hdf5_writer.report.duplicates import Duplicates, find_duplicates
from hdf5_writer.report.findings import find
from hdf5_writer.report.image_sample import ImageSample, ImageTally, inspect_images
from hdf5_writer.report.lengths import (
    OtherLength,
    at_length,
    empty_lengths,
    other_lengths,
    quantiles,
    recommended_length,
)
from hdf5_writer.report.page import _tally, write_report
from hdf5_writer.report.plots import binned
from hdf5_writer.report.task_statistics import TaskStatistics, fingerprints_every, read_fingerprints
from hdf5_writer.report.throughput import Throughput
from hdf5_writer.row_stream import Samples
from hdf5_writer.rows import RowLayout
from preprocess.samples import Sample, batch_of


def example_records() -> list[Any]:
    lines = (QUICKSTART / "phase_2" / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def written(tmp_path: Path, make_config: ConfigMaker) -> OutputLayout:
    """The example with three duplicates, in two shards of rows so short that some samples are truncated."""
    records = example_records()
    write_jsonl(tmp_path / "in" / "a.jsonl", [*records, records[3], records[3], records[7]])
    create(make_config(setup__samples_per_shard=40, processor__max_sequence_length=160))
    return OutputLayout(tmp_path / "out")


def rows_of(layout: OutputLayout) -> list[dict[str, Any]]:
    rows = []
    for path in layout.shards():
        with h5py.File(path) as file:
            columns = {name: file[name][:] for name in ("text_input_ids", "labels", "loss_mask")}
            columns["length"] = file["samples/length"][:]
            paths = iter(file["images/path"][:].tolist())
            columns["image_path"] = [next(paths) if images else b"" for images in np.diff(file["images/offsets"][:])]
        rows += [{name: column[i] for name, column in columns.items()} for i in range(len(columns["labels"]))]
    return rows


def test_statistics_in_receipts_equal_those_of_the_rows(written: OutputLayout) -> None:
    supervised, rounds = Counter[int](), Counter[int]()
    prints = []
    for receipt in all_receipts(written, read_plan(written)):
        supervised.update(dict(receipt["report"]["supervised"]))
        rounds.update(dict(receipt["report"]["rounds"]))
        prints.append(read_fingerprints(receipt["report"]))
    rows = rows_of(written)
    assert supervised == Counter(int(row["loss_mask"].sum()) for row in rows)
    assert rounds == Counter(int((np.diff(row["loss_mask"].astype(int), prepend=0) == 1).sum()) for row in rows)
    contents = Counter((row["text_input_ids"].tobytes(), row["labels"].tobytes(), row["image_path"]) for row in rows)
    duplicates = find_duplicates(prints, 1)
    assert (duplicates.surplus, duplicates.contents) == (3, 2)
    assert duplicates.surplus == sum(contents.values()) - len(contents)
    assert [group.samples for group in duplicates.largest] == [3, 2]
    for group in duplicates.largest:
        same = [rows[task * 40 + row] for task, row in group.places]
        assert len({row["labels"].tobytes() for row in same}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("length", [120, 130, 144, 200])
def test_estimates_for_another_length_equal_a_run_at_that_length(
    tmp_path: Path, make_config: ConfigMaker, length: int
) -> None:
    """Estimated truncation and padding equal those of a run at that length."""
    write_jsonl(tmp_path / "in" / "a.jsonl", example_records())
    wide = create(make_config(processor__max_sequence_length=400, setup__output_dir=str(tmp_path / "wide"))).params
    assert wide["counts"]["truncated"] == 0
    lengths = empty_lengths(400, 64, wide["image_start_idx"])
    for row in rows_of(OutputLayout(tmp_path / "wide")):
        lengths.add(np.array([row["length"]]), np.array([len(row["image_path"]) > 0]))
    estimate = at_length(lengths, length)
    real = create(make_config(processor__max_sequence_length=length)).params
    rejected = real["counts"]["rejected"]
    assert estimate.rows_cut == real["counts"]["truncated"] + rejected
    assert rejected < 55
    if not rejected:
        positions = real["tokens"]["total"] + real["tokens"]["padding"]
        assert estimate.padding_share == pytest.approx(real["tokens"]["padding"] / positions)


@pytest.mark.slow
@pytest.mark.parametrize("length", [300, 400, 800])
def test_estimates_for_packing_equal_a_packed_run(tmp_path: Path, make_config: ConfigMaker, length: int) -> None:
    """The estimated number of packed rows equals that of a packed run."""
    write_jsonl(tmp_path / "in" / "a.jsonl", example_records())
    wide = create(make_config(processor__max_sequence_length=400, setup__output_dir=str(tmp_path / "wide"))).params
    lengths = empty_lengths(400, 64, wide["image_start_idx"])
    for row in rows_of(OutputLayout(tmp_path / "wide")):
        lengths.add(np.array([row["length"]]), np.array([len(row["image_path"]) > 0]))
    estimate = at_length(lengths, length)
    real = create(make_config(processor__max_sequence_length=length, processor__packing="best_fit")).params
    assert real["counts"]["truncated"] == estimate.rows_cut == 0
    assert real["rows"] == round(55 / estimate.samples_per_row)
    assert real["fill"] == pytest.approx(1 - estimate.packed_padding_share, abs=1e-5)


@pytest.mark.slow
def test_rows_and_their_samples_and_images_are_counted(tmp_path: Path, make_config: ConfigMaker) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", example_records())
    config = make_config(processor__packing="best_fit", processor__max_sequence_length=400, setup__samples_per_shard=30)
    params = create(config).params
    layout = OutputLayout(tmp_path / "out")
    tally = _tally(layout, read_plan(layout)).rows
    for histogram, total in (
        (tally.used, params["tokens"]["total"]),
        (tally.samples, params["samples"]),
        (tally.images, params["counts"]["images"]),
    ):
        assert histogram.sum() == params["rows"]
        assert histogram @ np.arange(len(histogram)) == total
    assert len(tally.images) - 1 == params["most_images_per_row"]
    page = write_report(layout, None).read_text(encoding="utf-8")
    assert f">{params['fill']:.1%}</b>" in page
    assert f"{55 / params['rows']:.2f} samples and {40 / params['rows']:.2f} images per row" in page
    assert 'id="gain"' not in page, "it is packed already"


@pytest.mark.slow
def test_the_report_of_unpacked_data_estimates_packing(written: OutputLayout) -> None:
    page = write_report(written, None).read_text(encoding="utf-8")
    assert "With packing (<code>processor.packing: best_fit</code>), the 58 samples would need about <b>" in page
    assert 'id="rows"' not in page


def test_the_recommended_length_truncates_one_row_in_a_thousand() -> None:
    lengths = empty_lengths(2048, 576, 35)
    assert recommended_length(lengths) is None
    lengths.add(np.array([700] * 998 + [826] + [1900], dtype=np.int32), np.array([1] * 998 + [0, 1]))
    assert recommended_length(lengths) == 832  # the text-only row has 576 dummy slots on top
    chosen = [other for other in other_lengths(lengths) if other.is_recommended]
    assert [(other.max_sequence_length, other.rows_cut) for other in chosen] == [(832, 1)]
    lengths.add(np.array([2048, 2048], dtype=np.int32), np.array([1, 1]))
    assert recommended_length(lengths) is None, "the original lengths of truncated rows are unknown"


def test_no_row_fits_where_the_image_does_not() -> None:
    lengths = empty_lengths(2048, 576, 35)
    lengths.add(np.array([700, 666], dtype=np.int32), np.array([1, 0]))
    assert not at_length(lengths, 611).fits
    assert at_length(lengths, 612).fits
    assert at_length(lengths, 1024).speed > 2 > at_length(lengths, 2048).speed == 1
    assert at_length(lengths, 2048).padding_share == pytest.approx(1 - 790 / 4096)
    assert quantiles(lengths.text_tokens, (0.5, 1.0)) == [90, 124]


@pytest.mark.slow
def test_the_report_is_reproducible_except_for_times(written: OutputLayout) -> None:
    first = write_report(written, "command").read_bytes()
    assert write_report(written, "command").read_bytes() == first
    assert b"http" not in first.replace(b"http-equiv", b"").replace(b'xmlns="http://www.w3.org/2000/svg"', b"")


@pytest.mark.slow
def test_input_files_add_up(tmp_path: Path, make_config: ConfigMaker) -> None:
    records = example_records()
    write_jsonl(tmp_path / "in" / "a.jsonl", records[:20])
    write_jsonl(tmp_path / "in" / "b.jsonl", [*records[20:], *REJECTED])
    params = create(make_config(setup__samples_per_shard=9, processor__max_sequence_length=400)).params
    layout = OutputLayout(tmp_path / "out")
    files = _tally(layout, read_plan(layout)).inputs.files()
    assert [(file.path, file.records, file.samples, file.rejected) for file in files] == [
        ("b.jsonl", 37, 35, 2),
        ("a.jsonl", 20, 20, 0),
    ]
    assert sum(file.text_tokens for file in files) == params["tokens"]["text"]


def test_findings_list_everything_unusual() -> None:
    counts = {
        "read": 50,
        "rejected": 5,
        "rejected_by_reason": {"bad_role": 1, "image_missing": 4},
        "truncated": 3,
        "text_only_cut": 2,
        "dropped_rounds": 1,
        "unused_keys": {f"key{i}": 9 - i for i in range(8)},
    }
    params = {"counts": counts, "max_sequence_length": 2048}
    sample = ImageSample([(4, 4)] * 7, ["a.png"], ["b.png", "c.png"], rotated=4)
    found = find(params, Duplicates(1, 6, 2, []), sample)
    assert [finding.sentence for finding in found] == [
        "5 records were rejected (10.0%), most often as image_missing (4).",
        "6 samples have the same images and text as another sample.",
        "1 of 10 sampled image files are missing, such as a.png.",
        "2 of 10 sampled image files are unreadable, such as b.png.",
        "4 of 10 sampled image files have an EXIF orientation, which the loader does not apply.",
        "3 samples were truncated to 2,048 positions; 2 of them are text only, with dummy image slots in the row.",
        "1 round without an answer was dropped.",
        "Unused record keys: key0 (9), key1 (8), key2 (7), key3 (6), key4 (5), key5 (4) and 2 more.",
    ]
    quiet = {"rejected": 0, "truncated": 0, "text_only_cut": 0, "dropped_rounds": 0, "unused_keys": {}}
    assert find({"counts": quiet}, Duplicates(1, 0, 0, []), ImageSample()) == []
    one = quiet | {"read": 50, "rejected": 1, "rejected_by_reason": {"no_turns": 1}}
    (finding,) = find({"counts": one}, Duplicates(1, 0, 0, []), ImageSample())
    assert finding.sentence == "1 record was rejected (2.0%), as no_turns."
    cut = {"counts": quiet | {"truncated": 1, "text_only_cut": 1}, "max_sequence_length": 64}
    (finding,) = find(cut, Duplicates(1, 0, 0, []), ImageSample())
    assert finding.sentence == (
        "1 sample was truncated to 64 positions; it is text only, with dummy image slots in the row."
    )
    pays, hardly = (OtherLength(2048, True, False, True, 0, 0.6, 0.02, rows, 1.0) for rows in (2.44, 1.49))
    (finding,) = find({"counts": quiet, "fill": 0.401}, Duplicates(1, 0, 0, []), ImageSample(), pays)
    assert finding.sentence == (
        "40.1% of the positions are used; with packing, the samples would need 2.4 times fewer rows "
        "(processor.packing: best_fit)."
    )
    assert find({"counts": quiet, "fill": 0.6}, Duplicates(1, 0, 0, []), ImageSample(), hardly) == []


@pytest.mark.slow
def test_the_report_shows_the_first_five_rows(written: OutputLayout) -> None:
    page = write_report(written, None).read_text(encoding="utf-8")
    assert [f'id="row-{number}"' in page for number in range(6)] == [True] * 5 + [False]
    assert page.count('class="tokens supervised"') >= 5
    assert "data:image/jpeg" in page


@pytest.mark.slow
def test_the_command_for_other_rows_can_be_copied_to_a_shell(written: OutputLayout) -> None:
    root = written.root.rename(written.root.with_name("my out"))
    page = html.unescape(write_report(OutputLayout(root), None).read_text(encoding="utf-8"))
    assert f"<code>inspect_hdf5 '{root}'</code>" in page


@pytest.mark.slow
def test_the_run_itself_does_not_import_the_report(written: OutputLayout) -> None:
    script = (
        "import sys, threading; from pathlib import Path; from hdf5_writer.create_hdf5_dataset import _report;"
        "_report(Path(sys.argv[1]), \"create_hdf5_dataset --config 'a b.yaml'\", keep=False);"
        "print(threading.active_count(), 'matplotlib' in sys.modules)"
    )
    made = subprocess.run([sys.executable, "-c", script, written.root], capture_output=True, text=True, check=True)
    assert made.stdout == f"report             {written.report}\n1 False\n"
    assert b"--config &#39;a b.yaml&#39;" in written.report.read_bytes()


@pytest.mark.slow
def test_a_report_that_cannot_be_written_is_a_one_line_warning(
    written: OutputLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    written.report.mkdir()
    create_hdf5_dataset._report(written.root, "command", keep=False)
    stderr = capsys.readouterr().err
    assert "Is a directory" in stderr
    assert "the dataset itself is complete" in stderr
    assert f"python -m hdf5_writer.report {written.root}" in stderr
    assert stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("child", "reason"),
    [("import time; time.sleep(60)", "not finished after"), ("import os; os.abort()", "exit code -6")],
)
def test_a_report_that_hangs_or_crashes_does_not_block_the_run(
    written: OutputLayout,
    child: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = subprocess.run
    monkeypatch.setattr(process, "_SECONDS", 0.3 if "sleep" in child else 60)
    monkeypatch.setattr(subprocess, "run", lambda _, **options: run([sys.executable, "-c", child], **options))
    create_hdf5_dataset._report(written.root, "command", keep=False)
    assert reason in capsys.readouterr().err


@pytest.mark.slow
def test_the_report_has_its_own_command(
    written: OutputLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_main([str(written.root)]) == 0
    assert written.report.is_file()
    assert report_main([str(tmp_path / "nowhere")]) == 1
    assert "is missing, so this is not a finished dataset" in capsys.readouterr().err
    written.rejects.write_bytes(b"{")
    written.data_params.write_bytes(written.data_params.read_bytes()[:-9])
    assert report_main([str(written.root)]) == 1
    stderr = capsys.readouterr().err
    assert "is damaged" in stderr
    assert stderr.count("\n") == 1


def test_images_are_counted_exactly_and_then_estimated() -> None:
    paths = [f"{i % 3000:05}.jpg".encode() for i in range(4000)] + [b""] * 10 + [b"often.jpg"] * 500
    exact = ImageTally()
    exact.add(paths)
    assert (exact.distinct, exact.every, exact.frequent_is_exact) == (3001, 1, True)
    assert exact.most_used(2) == [("often.jpg", 500), ("00000.jpg", 2)]
    small = ImageTally(most_paths=400)
    for start in range(0, len(paths), 300):
        small.add(paths[start : start + 300])
    assert small.every > 1
    assert small.distinct == pytest.approx(3001, rel=0.25)
    assert small.most_used(1) == [("often.jpg", 500)]
    other_order = ImageTally(most_paths=400)
    other_order.add(reversed(paths))
    assert other_order.sample(5) == small.sample(5)


def test_images_are_read_only_inside_their_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "broken.png").write_bytes(b"nothing")
    picture = (QUICKSTART / "images" / "shapes" / "0001.png").read_bytes()
    (tmp_path / "outside.png").write_bytes(picture)
    (tmp_path / "images" / "inside.png").write_bytes(picture)
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "outside.png")
    paths = ["inside.png", "broken.png", "gone.png", "../outside.png", "link.png"]
    sample = inspect_images(tmp_path / "images", paths)
    assert len(sample.sizes) == 2, "a link in the folder is followed"
    assert sample.missing == ["gone.png"]
    assert sample.unreadable == ["broken.png", "../outside.png"]


@pytest.mark.slow
def test_fingerprints_are_sampled_by_content() -> None:
    assert [fingerprints_every(n) for n in (0, 1, 1_000_000, 1_000_001, 5_000_000)] == [1, 1, 1, 2, 5]
    layout = RowLayout(max_sequence_length=64, num_patches=4, image_start_idx=1, pad_id=0, truncate=True)
    facts = TaskStatistics(every=5)
    for number in [*range(2000), *range(1000)]:
        batch = batch_of(Sample(np.array([1, number, 2], dtype=np.int32), [(1, 3)], (1,)))
        line = np.zeros(1, np.int64)
        facts.add(Samples(*fit_samples(batch, layout)[:2], line, line, ["a.png"]))
    kept = read_fingerprints(facts.to_json())
    assert len(kept) < 900
    assert find_duplicates([kept], 5).surplus == pytest.approx(1000, rel=0.2)
    assert Counter(kept["sample"].tolist()).most_common(1)[0][1] == 1


def test_pauses_between_two_runs_do_not_count() -> None:
    throughput = Throughput()
    for began, worker in ((100.0, "a:1"), (101.0, "a:2"), (500.0, "b:1")):
        facts = {"worker": worker, "began": began, "stages": {"read": 0.5, "tokenize": 1.5}}
        throughput.add({"read": 1000, "seconds": 2.0, "report": facts})
    assert throughput.busy_seconds == pytest.approx(5.0)
    assert throughput.rate == pytest.approx(600)
    assert [share for _, _, share in throughput.stage_rows()] == pytest.approx([0.25, 0, 0, 0, 0.75, 0, 0, 0, 0, 0])
    assert [(name, worker.rate) for name, worker in throughput.busiest(2)] == [("a:1", 500), ("a:2", 500)]
    del throughput.workers["b:1"]
    assert [name for name, _ in throughput.busiest(9)] == ["1", "2"], "a single host is not named"


def test_binning_keeps_every_row() -> None:
    rng = np.random.default_rng(1)
    for high in (3, 40, 700, 8192):
        rows = rng.integers(0, 5, high + 1)
        counts, edges = binned(rows)
        assert counts.sum() == rows.sum()
        assert len(counts) <= 60
        assert len(edges) == len(counts) + 1
        assert len(set(np.diff(edges))) == 1


def picture_record(path: str) -> dict[str, Any]:
    return {"image": path, "conversations": turn_pair("<image>\nWhat?", f"This is {path}.")}


TEXT_RECORD = {"conversations": turn_pair("Why?", "Because.")}
REJECTED = [{"conversations": turn_pair("Q", "")}, {"conversations": []}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("records", "changes", "expected", "rows"),
    [
        pytest.param(REJECTED, {}, ["No samples were written", "empty_answer", "no_turns"], 0, id="only rejects"),
        pytest.param([TEXT_RECORD], {}, ["All samples are text only"], 1, id="one record, no images"),
        pytest.param([picture_record("shapes/0001.png")], {}, ["1</b> image file in 1 sample"], 1, id="one image"),
        pytest.param(
            [picture_record("gone.png"), picture_record("shapes/0001.png")],
            {},
            ["1 record was rejected because its image is missing.</span> 1 file checked: none missing"],
            1,
            id="a missing image",
        ),
        pytest.param(
            [picture_record("LICENSE"), TEXT_RECORD], {}, ["1 unreadable</span> (<code>LICENSE"], 2, id="unreadable"
        ),
        pytest.param(
            [picture_record("gone.png")], {"check_images": "none"}, ["1 missing</span>"], 1, id="images elsewhere"
        ),
        pytest.param(
            [picture_record("gone.png")],
            {"check_images": "none", "image_dir": None},
            ["<code>dataset.image_dir</code> is not set"],
            1,
            id="no image_dir",
        ),
    ],
)
def test_both_pages_are_written_if_parts_of_the_data_are_missing(
    tmp_path: Path,
    make_config: ConfigMaker,
    records: list[Any],
    changes: dict[str, Any],
    expected: list[str],
    rows: int,
) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", records)
    images = tmp_path / "images"
    (images / "shapes").mkdir(parents=True)
    shutil.copy(QUICKSTART / "images" / "shapes" / "0001.png", images / "shapes")
    (images / "LICENSE").write_text("no picture")
    create(make_config(**{f"dataset__{key}": value for key, value in {"image_dir": str(images), **changes}.items()}))
    layout = OutputLayout(tmp_path / "out")
    page = write_report(layout, None).read_text(encoding="utf-8")
    for words in expected:
        assert words in page
    assert ("all records are accounted for" in page) == (rows > 0)
    assert inspect_hdf5.main([str(layout.root)]) == (0 if rows else 2)
    assert layout.rows_page.exists() == (rows > 0)


def test_images_with_an_exif_rotation_are_counted(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=turned)
    Image.new("RGB", (8, 4)).save(tmp_path / "plain.jpg")
    sample = inspect_images(tmp_path, ["turned.jpg", "plain.jpg"])
    assert (sample.rotated, sample.sizes) == (1, [(8, 4), (8, 4)]), "sizes are those that the model sees"
