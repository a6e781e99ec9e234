import builtins
import json
import shutil
from collections import Counter

import pytest
from interruption import contents, killed_at
from real_excerpts import SHARED, with_real_excerpts

from preprocess.converters.core.brief_instructions import BRIEF_DESCRIPTION
from preprocess.converters.core.errors import InputError
from preprocess.converters.core.parquet import rows

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402


def write_parquet(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


def figure(name, data, caption="The spectrum.", pairs=1):
    pair = {"sub_caption": "", "image_file": name, "image": {"bytes": data}, "image_ocr": []}
    return {"caption": caption, "cil_pairs": [pair] * pairs}


@pytest.fixture
def run(preprocess, tmp_path):
    def convert(command, *more, prefix="ArxivCap/images", images=tmp_path / "images", out=tmp_path / "jsonl"):
        arguments = ["--input_dir", tmp_path / "data", "--output_jsonl_dir", out, "--output_image_dir", images]
        return preprocess(command, *arguments, "--image_prefix", prefix, *more, into=out)

    return convert


def test_only_figures_with_one_image_and_a_caption_are_used(run, tmp_path, image_bytes):
    data = image_bytes("red")
    name = "2001.00001/fig1.jpg"
    papers = [
        {"caption_images": [figure(name, data), figure("2001.00001/fig2.jpg", data, pairs=2)]},
        {"caption_images": []},
        {"caption_images": [figure("a/b.jpg", data, caption=" "), figure("a/c.jpg", data, caption="x", pairs=0)]},
        {"caption_images": [figure("a/d.jpg", b"no image"), figure("../e.jpg", data), figure("a/f.jpg", None)]},
    ]
    write_parquet(tmp_path / "data/arXiv_src_2001_003.parquet", papers)
    result = run("arxivcap")
    assert result.code == 0, result.err
    (record,) = result.records
    assert record["id"] == "arxivcap_2001.00001/fig1"
    assert record["image"] == f"ArxivCap/images/{name}"
    assert record["conversations"][0]["value"].removeprefix("<image>\n") in BRIEF_DESCRIPTION
    assert record["conversations"][1] == {"from": "gpt", "value": "The spectrum."}
    assert (tmp_path / "images" / name).read_bytes() == data
    assert [path.name for path in (tmp_path / "images").rglob("*") if path.is_file()] == ["fig1.jpg"]
    assert result.reasons == [
        ("row 0, figure 1", "several_pairs"),
        ("row 2, figure 0", "no_caption"),
        ("row 2, figure 1", "no_image"),
        ("row 3, figure 0", "image_does_not_decode"),
        ("row 3, figure 1", "image_outside_prefix"),
        ("row 3, figure 2", "no_image"),
    ]
    assert "7 read = 1 written + 6 rejected, 1 images" in result.out


def test_two_images_with_the_same_name_do_not_replace_each_other(run, tmp_path, image_bytes):
    red, blue = image_bytes("red"), image_bytes("blue")
    figures = [figure("a/1.jpg", red), figure("a/1.jpg", blue), figure("a/1.jpg", red)]
    write_parquet(tmp_path / "data/arXiv_src_2001_003.parquet", [{"caption_images": figures}])
    result = run("arxivcap")
    assert len(result.records) == 2
    assert result.reasons == [("row 0, figure 1", "image_name_taken")]
    assert (tmp_path / "images/a/1.jpg").read_bytes() == red


def test_the_range_selects_files_by_number_and_excludes_its_end(run, tmp_path, image_bytes):
    for month, number in [("1905", 2), ("1905", 3), ("2001", 10), ("2001", 11)]:
        papers = [{"caption_images": [figure(f"{month}_{number}/1.jpg", image_bytes("red"))]}]
        write_parquet(tmp_path / f"data/arXiv_src_{month}_{number:03d}.parquet", papers)
    result = run("arxivcap", "--parquet_range", 3, 11)
    assert [r["id"] for r in result.records] == ["arxivcap_1905_3/1", "arxivcap_2001_10/1"]
    again = run("arxivcap")
    assert again.out.count("finished earlier") == 2
    assert len(again.records) == 4


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [(11, 3, "expected A B with 0 <= A < B"), (3, 3, "expected A B"), (20, 30, "their numbers go from 2 to 2")],
)
def test_a_wrong_range_is_a_wrong_argument(run, tmp_path, image_bytes, low, high, message):
    write_parquet(tmp_path / "data/arXiv_src_2001_002.parquet", [{"caption_images": []}])
    result = run("arxivcap", "--parquet_range", low, high)
    assert result.code == 2
    assert message in result.err


def page(data, text="Hello world", path=None):
    return {"image": {"bytes": data, "path": path}, "ground_truth": json.dumps({"gt_parse": {"text_sequence": text}})}


def synthdog(run, *more):
    return run("synthdog_en", *more, prefix="synthdog-en/images")


def test_pages_are_numbered_by_row_and_named_after_their_format(run, tmp_path, image_bytes):
    jpeg, png = image_bytes("red"), image_bytes("red", "PNG")
    pages = [page(jpeg), page(png, 'a "b" \\ é'), page(b"GIF89a"), page(jpeg, " "), page(None)]
    pages += [{"image": {"bytes": jpeg, "path": None}, "ground_truth": bad} for bad in ("{'a': 1}", "[]", "{}", None)]
    write_parquet(tmp_path / "data/train-00004-of-00084-b1d684c57dc6e3da.parquet", pages, row_group_size=2)
    write_parquet(tmp_path / "data/validation-00000-of-00001-394e0bbf29ccec82.parquet", pages)
    result = synthdog(run)
    assert [(r["id"], r["image"], r["conversations"][1]["value"]) for r in result.records] == [
        ("synthdog_en_train-00004_000000", "synthdog-en/images/train-00004/000000.jpg", "Hello world"),
        ("synthdog_en_train-00004_000001", "synthdog-en/images/train-00004/000001.png", 'a "b" \\ é'),
    ]
    assert (tmp_path / "images/train-00004/000001.png").read_bytes() == png
    assert result.reasons == [
        ("row 2", "image_does_not_decode"),
        ("row 3", "no_answer"),
        ("row 4", "no_image"),
        ("row 5", "not_json"),
        ("row 6", "no_answer"),
        ("row 7", "no_answer"),
        ("row 8", "no_answer"),
    ]


def test_all_instructions_occur_and_depend_on_the_seed(run, tmp_path, image_bytes):
    write_parquet(tmp_path / "data/train-00000-of-00084-x.parquet", [page(image_bytes("red"))] * 200)
    first = [r["conversations"][0]["value"] for r in synthdog(run).records]
    assert len(Counter(first)) == 11
    second = synthdog(run, "--seed", "5", "--overwrite")
    assert first != [r["conversations"][0]["value"] for r in second.records]


def test_a_truncated_image_is_replaced_but_an_image_with_other_content_is_not(run, tmp_path, image_bytes):
    write_parquet(tmp_path / "data/train-00000-of-00084-x.parquet", [page(image_bytes("red"))])
    target = tmp_path / "images/train-00000/000000.jpg"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"")
    assert synthdog(run).code == 0
    assert target.read_bytes() == image_bytes("red")
    shutil.rmtree(tmp_path / "jsonl")
    target.write_bytes(b"mine")
    result = synthdog(run)
    assert result.code == 2
    assert "exists with different contents" in result.err
    assert target.read_bytes() == b"mine"
    assert synthdog(run, "--overwrite").code == 0
    assert target.read_bytes() == image_bytes("red")


@pytest.mark.faults
def test_a_run_killed_at_any_step_is_resumed_and_leaves_no_extra_files(run, tmp_path, image_bytes):
    pages = [page(image_bytes(colour)) for colour in ("red", "green", "blue")]
    write_parquet(tmp_path / "data/train-00000-of-00084-x.parquet", pages)
    synthdog(run)
    out, images = tmp_path / "jsonl", tmp_path / "images"
    whole, whole_images = contents(out), contents(images)
    assert len(whole_images) == 3
    arguments = ["synthdog_en", "--input_dir", str(tmp_path / "data"), "--output_jsonl_dir", str(out)]
    arguments += ["--output_image_dir", str(images), "--image_prefix", "synthdog-en/images"]
    for step in range(1, 100):
        shutil.rmtree(out)
        shutil.rmtree(images)
        if not killed_at(step, arguments):
            break
        assert {name: data for name, data in contents(images).items() if name in whole_images}.items() <= (
            whole_images.items()
        )
        assert synthdog(run).code == 0
        assert contents(images) == whole_images
        assert contents(out) == whole, (step, set(contents(out)) ^ set(whole))
    assert 12 < step < 99


def test_an_output_for_another_image_folder_is_refused(run, tmp_path, image_bytes):
    write_parquet(tmp_path / "data/train-00000-of-00084-x.parquet", [page(image_bytes("red"))])
    assert synthdog(run).code == 0
    result = run("synthdog_en", images=tmp_path / "elsewhere", prefix="synthdog-en/images")
    assert result.code == 2
    assert "output_image_dir was '../images' and is '../elsewhere' now" in result.err


def test_a_broken_parquet_file_or_one_without_the_columns_is_a_wrong_input(run, tmp_path):
    path = tmp_path / "data/train-00000-of-00084-x.parquet"
    path.parent.mkdir()
    path.write_bytes(b"PAR1 half a download")
    result = synthdog(run)
    assert result.code == 2
    assert f"1 of 1 files cannot be read to the end ({path})" in result.err
    assert "cannot be read as Parquet" in result.rejects[0]["detail"]
    assert "Traceback" not in result.err
    write_parquet(path, [{"text": "x"}])
    assert "has no column 'image', only text" in synthdog(run).err


def test_without_pyarrow_the_error_names_the_package_to_install(run, tmp_path, monkeypatch):
    write_parquet(tmp_path / "data/train-00000-of-00084-x.parquet", [{"text": "x"}])
    imported = builtins.__import__

    def without_pyarrow(name, *arguments, **options):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    result = synthdog(run)
    assert result.code == 2
    assert "pip install 'llava-hdf5[parquet]'" in result.err


@with_real_excerpts
def test_real_parquet_with_image_bytes_is_read_row_by_row():
    folder = SHARED / "raw/parquet"
    read = list(rows(folder / "data-juicer_demo-dataset-images-bytes.parquet", ["text", "image_bytes"]))
    assert [number for number, _ in read] == [0, 1, 2]
    assert all(row["image_bytes"][0].startswith((b"\x89PNG", b"\xff\xd8")) for _, row in read)
    with pytest.raises(InputError, match="has no column 'image_bytes', only url, txt, sha256hash"):
        list(rows(folder / "img2dataset_sample_image.parquet", ["image_bytes"]))
