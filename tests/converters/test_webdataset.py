"""`preprocess_dataset webdataset` on tar files as WebDataset and img2dataset write them."""

import io
import json
import random
import tarfile

import pytest
from dialogues import dialogue, stored, values
from interruption import contents, killed_at


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            if isinstance(data, dict | list):
                data = json.dumps(data).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def run(preprocess, tmp_path):
    def convert(*more, source=tmp_path / "data", out=tmp_path / "jsonl"):
        arguments = ["--input", source, "--output_jsonl_dir", out, "--output_image_dir", tmp_path / "images"]
        return preprocess("webdataset", *arguments, *more, into=out)

    return convert


def test_members_with_the_same_key_are_a_sample(run, tmp_path, image_bytes):
    red, blue = image_bytes("red"), image_bytes("blue", "PNG")
    turns = dialogue(("system", "Be brief."), ("human", "<image>\nWhat?"), ("gpt", "Red."))
    members = [
        ("0001.jpg", red),
        ("0001.json", {"id": "abc", "image": "x/0001.jpg", "conversations": turns}),
        ("a/0001.json", {"caption": "From its JSON.", "url": "https://x"}),
        ("a/0001.png", blue),
        ("a/0001.txt", b"from its text"),
        ("a/0002.txt", "Größe\n".encode()),
        ("a/0002.json", {"width": 8}),
        ("a/0002.jpg", red),
        ("b.0.jpg", red),
        ("b.1.PNG", blue),
        ("b.cls", b"7"),
        ("b.json", {"texts": [{"user": "Same?", "assistant": "No."}]}),
        ("c.json", {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}),
    ]
    write_tar(tmp_path / "data/part/00000.tar", members)
    result = run("--image_prefix", "wds")
    assert result.code == 0, result.err
    assert [(record["id"], record.get("image")) for record in result.records] == [
        ("part/00000/abc", f"wds/{stored(red, '.jpg')}"),
        ("part/00000/a/0001", f"wds/{stored(blue, '.png')}"),
        ("part/00000/a/0002", f"wds/{stored(red, '.jpg')}"),
        ("part/00000/b", [f"wds/{stored(red, '.jpg')}", f"wds/{stored(blue, '.png')}"]),
        ("part/00000/c", None),
    ]
    assert result.records[0]["conversations"] == turns
    assert values(result.records[1]) == [("human", "<image>"), ("gpt", "From its JSON.")]
    assert values(result.records[2])[1] == ("gpt", "Größe")
    assert values(result.records[3])[0] == ("human", "<image>\n<image>\nSame?")
    assert contents(tmp_path / "images") == {stored(red, ".jpg"): red, stored(blue, ".png"): blue}
    assert "5 read = 5 written + 0 rejected, 2 images" in result.out


def test_unusable_samples_are_rejected_with_their_key(run, tmp_path, image_bytes, monkeypatch):
    monkeypatch.setattr("preprocess.converters.webdataset.LARGEST_FILE", 10_000)
    red = image_bytes("red")
    members = [
        ("good.jpg", red),
        ("good.txt", b"A red square."),
        ("text.txt", b"no image"),
        ("image.jpg", red),
        ("broken.jpg", red[:-300]),
        ("broken.txt", b"cut short"),
        ("bytes.jpg", red),
        ("bytes.txt", b"\xff\xfe"),
        ("json.jpg", red),
        ("json.json", b"{'a': 1}"),
        ("list.jpg", red),
        ("list.json", [1]),
        ("large.txt", b"a red square"),
        ("large.jpg", bytes(10_001)),
        ("folder/.jpg", red),
        ("odd\udcff.txt", b"the name is not UTF-8"),
    ]
    write_tar(tmp_path / "data/0.tar", members)
    result = run()
    assert [record["id"] for record in result.records] == ["0/good"]
    assert result.reasons == [
        ("sample text", "no_image"),
        ("sample image", "no_turns"),
        ("sample broken", "image_does_not_decode"),
        ("sample bytes", "not_utf8"),
        ("sample json", "not_json"),
        ("sample list", "not_an_object"),
        ("sample large", "unreadable_row"),
        ("sample odd�", "no_image"),
    ]


def ten_samples(image_bytes):
    return [
        member
        for number in range(10)
        for member in ((f"{number}.jpg", image_bytes((number * 20, 0, 0))), (f"{number}.txt", b"a square"))
    ]


@pytest.mark.slow
def test_a_truncated_archive_gives_its_complete_samples_and_one_reject_for_the_rest(run, tmp_path, image_bytes):
    """Also if it ends between two samples: more members of the last sample may have followed."""
    path = write_tar(tmp_path / "data/0.tar", ten_samples(image_bytes))
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        starts = [member.offset for member in archive]
        end = archive.offset
    cuts = [*starts, *(start + 100 for start in starts), *(start + 600 for start in starts), end]
    for size in sorted(cuts):
        path.write_bytes(whole[:size])
        result = run()
        assert result.code == 2, size
        assert f"1 of 1 files cannot be read to the end ({path})" in result.err
        assert "Traceback" not in result.err
        begun = [number for number, start in enumerate(starts) if start + 512 <= size]
        number = max(begun, default=0) // 2
        assert [record["id"] for record in result.records] == [f"0/{n}" for n in range(number)]
        (reject,) = result.rejects
        assert reject["reason"] == "unreadable_file"
        assert reject["position"] == f"sample {number if begun else 'at the beginning'}"
        assert "check that the download is complete" in reject["detail"]
    path.write_bytes(whole[: end + 512])  # one of the two blocks of zeros
    result = run()
    assert (result.code, len(result.records), result.rejects) == (0, 10, [])


@pytest.mark.slow
def test_damage_is_a_reject_or_an_error_and_never_a_traceback(run, tmp_path, image_bytes):
    path = write_tar(tmp_path / "data/0.tar", ten_samples(image_bytes))
    whole = path.read_bytes()
    choose = random.Random(0)
    codes = set()
    for _ in range(60):
        damaged = bytearray(whole)
        at = choose.randrange(len(damaged) - 20)
        damaged[at : at + 20] = choose.randbytes(20)
        path.write_bytes(damaged)
        codes.add(run("--overwrite").code)
    assert codes == {0, 2}


@pytest.mark.slow
def test_a_rerun_after_a_kill_gives_the_bytes_of_an_uninterrupted_run(run, tmp_path, image_bytes):
    write_tar(tmp_path / "data/0.tar", ten_samples(image_bytes))
    run()
    out, images = tmp_path / "jsonl", tmp_path / "images"
    whole = contents(out), contents(images)
    arguments = ["webdataset", "--input", tmp_path / "data", "--output_jsonl_dir", out, "--output_image_dir", images]
    for step in (2, 9, 16, 24):
        for path in [*out.rglob("*"), *images.rglob("*")]:
            if path.is_file():
                path.unlink()
        assert killed_at(step, [str(argument) for argument in arguments])
        assert run().code == 0
        assert (contents(out), contents(images)) == whole
