"""The audit of a folder of images finds planted problems, and those of real folders."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import needs_shared, shared_folder
from PIL import ExifTags, Image

from preprocess.image_audit import audit
from preprocess.inspect_images import main


def draw(path: Path, colour: int, image_format: str = "PNG", mode: str = "RGB", **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8 + colour, 6), (colour, 0, 0)).convert(mode).save(path, image_format, **options)
    return path


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """40 images for training and 10 for validation; 3 duplicates, and 2 leaks under other names."""
    train, val = tmp_path / "train", tmp_path / "val"
    drawn = [draw(train / f"{n % 4}/{n:02d}.png", n) for n in range(40)]
    for n in range(10):
        draw(val / f"{n}.png", 100 + n)
    copy(drawn[3], train / "again/a.png")
    copy(drawn[3], train / "again/b.jpg")
    copy(drawn[7], train / "again/c.png")
    copy(drawn[7], val / "leak.png")
    copy(drawn[11], val / "deep/er/leak.webp")
    return train, val


def test_planted_duplicates_and_leaks_are_all_found(folders: tuple[Path, Path]) -> None:
    train, val = folders
    found, other = audit(train), audit(val)
    assert found.duplicates == [["3/03.png", "again/a.png", "again/b.jpg"], ["3/07.png", "again/c.png"]]
    assert found.shared_with(other) == [
        (["3/07.png", "again/c.png"], ["leak.png"]),
        (["3/11.png"], ["deep/er/leak.webp"]),
    ]
    assert (found.files, other.files) == (43, 12)
    assert found.size == sum(path.stat().st_size for path in train.rglob("*") if path.is_file())


def test_the_command_shows_counts_and_the_first_examples(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    train, val = folders
    assert main([str(train), "--against", str(val), "--most", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"files +43 \(", out)
    assert re.search(r"formats +PNG 43\n", out)
    assert re.search(r"width +8 to 47, median 26\n", out)
    assert re.search(
        r"duplicates +2 groups of identical files, 5 files\n  '3/03.png' = 2 more\n  and 1 more; --most 2 shows all\n",
        out,
    )
    assert re.search(r"in both +2 distinct contents: 3 files here, 2 in ", out)
    assert "  '3/07.png' = 1 more; there 'leak.png'\n" in out
    assert main([str(train), "--most", "9"]) == 0
    out = capsys.readouterr().out
    assert "  '3/03.png' = 'again/a.png' = 'again/b.jpg'\n" in out
    assert "in both" not in out


def test_formats_modes_rotations_and_unreadable_files_are_counted(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    draw(tmp_path / "a.jpg", 1, "JPEG", exif=exif)
    draw(tmp_path / "b.png", 2, exif=exif)
    draw(tmp_path / "c.png", 3, mode="L")
    exif[ExifTags.Base.Orientation] = 1
    draw(tmp_path / "d.webp", 4, "WEBP", exif=exif)
    draw(tmp_path / "e.jpg", 5, "JPEG", mode="CMYK")
    exif[ExifTags.Base.Orientation] = 77
    draw(tmp_path / "f.jpg", 6, "JPEG", exif=exif)
    draw(tmp_path / "broken_exif.jpg", 7, "JPEG", exif=b"Exif\0\0not a TIFF header")
    (tmp_path / "g.jpg").write_bytes(b"not an image")
    (tmp_path / "h.jpg").write_bytes(b"")
    os.mkfifo(tmp_path / "i.jpg")
    (tmp_path / "j.jpg").symlink_to(tmp_path / "nowhere")
    found = audit(tmp_path)
    assert found.formats == {"JPEG": 4, "PNG": 2, "WEBP": 1}
    assert found.modes == {"RGB": 5, "L": 1, "CMYK": 1}
    assert found.rotated == [("a.jpg", 6), ("b.png", 6)]
    assert [path for path, _ in found.unreadable] == ["g.jpg", "h.jpg", "i.jpg", "j.jpg"]
    assert found.sizes[(9, 6)] == 1
    assert found.files == 11


def test_linked_folders_are_followed_only_once(tmp_path: Path) -> None:
    draw(tmp_path / "images/a.png", 1)
    draw(tmp_path / "elsewhere/b.png", 2)
    (tmp_path / "images/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images/loop").symlink_to(tmp_path / "images")
    found = audit(tmp_path / "images")
    assert sorted(path for paths in found.contents.values() for path in paths) == ["a.png", "linked/b.png"]


def test_a_name_that_cannot_be_printed_is_shown_quoted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path / "a.png", 1)
    (tmp_path / os.fsdecode(b"\x1b[31m\xff.jpg")).write_bytes(b"no")
    assert main([str(tmp_path)]) == 0
    assert r"'\x1b[31m\udcff.jpg'" in capsys.readouterr().out


def test_a_folder_without_read_permission_is_one_sentence(
    tmp_path: Path, forbid: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "images/sub/a.png", 1)
    forbid(tmp_path / "images/sub")
    for folder in (tmp_path / "images", tmp_path / "images/sub/deep"):
        assert main([str(folder)]) == 1
        said = capsys.readouterr().err
        assert re.fullmatch(r"inspect_images: \S+/images/sub\S*: Permission denied; make the folder readable\n", said)


def test_a_folder_without_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, texts, images = (tmp_path / name for name in ("empty", "texts", "images"))
    for folder in (empty, texts):
        folder.mkdir()
    (texts / "a.txt").write_text("no image")
    draw(images / "a.png", 1)
    assert main([str(empty)]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == (
        "",
        f"inspect_images: {empty} contains no images (0 files); give a folder of images\n",
    )
    assert main([str(texts)]) == 2
    shown = capsys.readouterr()
    assert re.search(r"not readable +1\n  'a.txt': ", shown.out)
    assert f"{texts} contains no images (1 file); give a folder of images" in shown.err
    assert main([str(images), "--against", str(empty)]) == 2
    assert f"{empty} contains no images" in capsys.readouterr().err


def test_wrong_arguments_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert (
        capsys.readouterr().err == f"inspect_images: {tmp_path / 'none'} does not exist, expected a folder of images\n"
    )
    assert main([str(tmp_path), "--against", str(tmp_path / "none")]) == 2
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), "--most", "0"])


@needs_shared("images")
def test_hashes_formats_and_rotations_of_real_images_are_found() -> None:
    folder = shared_folder("images")
    files = [path for path in folder.rglob("*") if path.is_file()]
    by_hash = Counter(hashlib.sha256(path.read_bytes()).digest() for path in files)
    found = audit(folder)
    assert {digest: len(paths) for digest, paths in found.contents.items()} == by_hash
    assert found.files == len(files) == found.formats.total() + len(found.unreadable)
    assert {"odd/lfs-pointer/001.jpg", "odd/mmpretrain/tests/data/dataset/3.jpeg"} <= {n for n, _ in found.unreadable}
    coco = [path for path, _ in found.unreadable if path.startswith("coco/")]
    assert all(path.endswith(".json") for path in coco)
    # The files are named by their orientation: https://github.com/recurser/exif-orientation-examples.
    named = {path: tag for path, tag in found.rotated if path.startswith("odd/exif-orientation/")}
    assert named == {
        f"odd/exif-orientation/{path.name}": int(path.stem[-1])
        for path in (folder / "odd/exif-orientation").glob("*_[2-8].jpg")
    }
    train, val = audit(folder / "coco/train2017"), audit(folder / "coco/val2017")
    assert train.shared_with(val) == []
    assert len(found.shared_with(val)) == val.files
