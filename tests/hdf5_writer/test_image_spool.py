"""Images of a task: read once each, kept in their stored form, distinguished by content."""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path

import pytest
from PIL import Image

from hdf5_writer import image_spool
from hdf5_writer.image_spool import ImageSpool
from preprocess.images import ImageChecker
from preprocess.rejects import Reason, Rejected


def draw(path: Path, colour: str) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 5), colour).save(path)
    return path.read_bytes()


def spool_of(folder: Path, spool: Path, stored=lambda image, data: data) -> ImageSpool:  # type: ignore[no-untyped-def]
    return ImageSpool(ImageChecker(folder, "decode"), spool, stored)


def test_contents_are_in_order_of_first_use_without_repeats(tmp_path: Path) -> None:
    red, blue = draw(tmp_path / "a/red.png", "red"), draw(tmp_path / "blue.png", "blue")
    draw(tmp_path / "again.png", "red")
    draw(tmp_path / "unused.png", "green")
    spool = spool_of(tmp_path, tmp_path)
    for path in ("unused.png", "a/red.png", "blue.png", "again.png", "blue.png"):
        spool.check(path)
    contents = spool.contents(["blue.png", "again.png", "a/red.png", "blue.png"])
    assert contents.of_image.tolist() == [0, 1, 1, 0]
    assert contents.sha256.tobytes() == hashlib.sha256(blue).digest() + hashlib.sha256(red).digest()
    assert contents.begin.tolist() == [0, len(blue), len(blue) + len(red)]
    assert contents.crc32.tolist() == [zlib.crc32(blue), zlib.crc32(red)]
    assert b"".join(spool.payload(contents)) == blue + red
    assert spool.contents([]).begin.tolist() == [0]


def test_a_broken_file_is_read_once_and_rejected_for_each_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "a.png", "red")
    (tmp_path / "broken.png").write_bytes(b"no image")
    opened = []
    real = image_spool.open_regular
    monkeypatch.setattr(image_spool, "open_regular", lambda path: (opened.append(path), real(path))[1])
    spool = spool_of(tmp_path, tmp_path)
    for _ in range(3):
        spool.check("a.png")
        for path, reason in (
            ("broken.png", Reason.IMAGE_UNREADABLE),
            ("gone.png", Reason.IMAGE_MISSING),
            ("../a.png", Reason.IMAGE_OUTSIDE),
        ):
            with pytest.raises(Rejected) as rejected:
                spool.check(path)
            assert rejected.value.reason == reason
    assert sorted(map(os.path.basename, opened)) == ["a.png", "broken.png"]


def test_the_spool_keeps_converted_images_and_leaves_no_file(tmp_path: Path) -> None:
    draw(tmp_path / "images/a.png", "red")
    (tmp_path / "work").mkdir()
    spool = spool_of(tmp_path / "images", tmp_path / "work", lambda image, data: image.tobytes())
    spool.check("a.png")
    assert b"".join(spool.payload(spool.contents(["a.png"]))) == b"\xff\0\0" * 45
    assert list((tmp_path / "work").iterdir()) == []
    hashes = spool_of(tmp_path / "images", tmp_path / "work", None)
    hashes.check("a.png")
    found = hashes.contents(["a.png"])
    assert found.sha256.tobytes() == hashlib.sha256((tmp_path / "images/a.png").read_bytes()).digest()
    assert b"".join(hashes.payload(found)) == b""


def test_a_changed_file_changes_the_digest(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw(tmp_path / name, "red")

    def digest(*paths: str) -> str:
        spool = spool_of(tmp_path, tmp_path)
        for path in paths:
            spool.check(path)
        return spool.contents(list(paths)).facts_digest

    first = digest("a.png", "b.png")
    assert digest("b.png", "a.png", "a.png") == first
    os.utime(tmp_path / "b.png", ns=(1, 1))
    assert digest("a.png", "b.png") != first
