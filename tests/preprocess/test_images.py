from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from conftest import ConfigMaker, needs_shared, shared_folder
from PIL import Image

from preprocess.config import ConfigError, DatasetConfig
from preprocess.image_files import LARGEST_FILE
from preprocess.images import ImageChecker, require_image_dir
from preprocess.regular_files import open_regular
from preprocess.rejects import Reason, Rejected


@pytest.fixture
def image_dir(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    (root / "sub" / "deep").mkdir(parents=True)
    for name in ("a.png", "sub/b.png", "sub/deep/ü ö.png"):
        Image.new("RGB", (4, 3)).save(root / name)
    (root / "broken.jpg").write_bytes(b"\xff\xd8 not really")
    (root / "empty.jpg").touch()
    (tmp_path / "elsewhere.png").write_bytes((root / "a.png").read_bytes())
    (root / "out.png").symlink_to(tmp_path / "elsewhere.png")
    (root / "in.png").symlink_to(root / "a.png")
    (root / "nowhere.png").symlink_to(root / "gone.png")
    (root / "linked").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(root / "pipe.png")
    (root / "to_pipe.png").symlink_to(root / "pipe.png")
    (root / "to_device.png").symlink_to("/dev/zero")
    return root


def reason_of(checker: ImageChecker, path: str) -> Reason:
    with pytest.raises(Rejected) as rejected:
        checker.check(path)
    return rejected.value.reason


@pytest.mark.parametrize("max_names", [0, 1, 1_000_000])
def test_an_image_in_a_folder_without_permission_is_not_called_missing(
    image_dir: Path, forbid: Callable[[Path], None], max_names: int
) -> None:
    forbid(image_dir / "sub")
    checker = ImageChecker(image_dir, "exists", max_names)
    for path in ("sub/b.png", "sub/deep/ü ö.png"):
        with pytest.raises(Rejected, match=r"^image_unreadable: .* cannot be accessed \(Permission denied\)$"):
            checker.check(path)
    assert reason_of(checker, "gone.png") is Reason.IMAGE_MISSING
    dataset = DatasetConfig(image_dir=image_dir, system_prompt_style="plain")
    require_image_dir(dataset)
    forbid(image_dir)
    with pytest.raises(ConfigError, match=f"^dataset.image_dir {image_dir}: cannot be accessed .*; make the folder"):
        require_image_dir(dataset)


@pytest.mark.parametrize("mode", ["exists", "decode"])
@pytest.mark.parametrize("max_names", [0, 1, 5, 1_000_000])
def test_existing_images_are_accepted(image_dir: Path, mode: str, max_names: int) -> None:
    checker = ImageChecker(image_dir, mode, max_names)  # type: ignore[arg-type]
    for path in ("a.png", "./a.png", "sub/b.png", "sub//b.png", "sub/deep/ü ö.png", "in.png"):
        checker.check(path)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("gone.png", Reason.IMAGE_MISSING),
        ("A.PNG", Reason.IMAGE_MISSING),
        ("gone/a.png", Reason.IMAGE_MISSING),
        ("sub", Reason.IMAGE_MISSING),
        ("a.png/b", Reason.IMAGE_MISSING),
        ("nowhere.png", Reason.IMAGE_MISSING),
        ("pipe.png", Reason.IMAGE_MISSING),
        ("to_pipe.png", Reason.IMAGE_MISSING),
        ("to_device.png", Reason.IMAGE_MISSING),
        ("linked", Reason.IMAGE_MISSING),
        ("x" * 5000, Reason.IMAGE_MISSING),
        ("/etc/passwd", Reason.IMAGE_OUTSIDE),
        ("../elsewhere.png", Reason.IMAGE_OUTSIDE),
        ("sub/../a.png", Reason.IMAGE_OUTSIDE),
        ("linked/../a.png", Reason.IMAGE_OUTSIDE),
        ("a\0.png", Reason.IMAGE_OUTSIDE),
        ("sub/", Reason.IMAGE_OUTSIDE),
        ("..", Reason.IMAGE_OUTSIDE),
    ],
)
@pytest.mark.parametrize("max_names", [0, 1, 1_000_000])
def test_missing_images_and_paths_outside_the_folder_are_rejected(
    image_dir: Path, path: str, reason: Reason, max_names: int
) -> None:
    checker = ImageChecker(image_dir, "exists", max_names)
    for _ in range(2):
        assert reason_of(checker, path) is reason


@pytest.mark.parametrize("mode", ["exists", "decode"])
def test_links_are_followed_to_any_folder(image_dir: Path, mode: str) -> None:
    checker = ImageChecker(image_dir, mode)  # type: ignore[arg-type]
    for path in ("in.png", "out.png", "linked/elsewhere.png", "linked/images/a.png"):
        for _ in range(2):
            checker.check(path)


def test_an_image_folder_may_be_a_link_and_contain_only_links(tmp_path: Path) -> None:
    """As in a snapshot of the Hugging Face cache, whose files are links to ../../blobs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0a1b2c"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(blobs / "f00d", "PNG")
    (snapshot / "a.png").symlink_to("../../blobs/f00d")
    (tmp_path / "images").symlink_to(snapshot, target_is_directory=True)
    ImageChecker(tmp_path / "images", "decode").check("a.png")


def test_decode_rejects_broken_images_that_exists_accepts(image_dir: Path) -> None:
    for name in ("broken.jpg", "empty.jpg"):
        ImageChecker(image_dir, "exists").check(name)
        assert reason_of(ImageChecker(image_dir, "decode"), name) is Reason.IMAGE_UNREADABLE


def many_scans(scans: int) -> bytes:
    """A progressive JPEG that repeats its last scan of 14 bytes many times."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (10, 200, 30)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - data.count(b"\xff\xda")) + b"\xff\xd9"


def test_a_jpeg_with_too_many_scans_is_rejected(image_dir: Path) -> None:
    (image_dir / "most.jpg").write_bytes(many_scans(100))
    (image_dir / "more.jpg").write_bytes(many_scans(101))
    checker = ImageChecker(image_dir, "decode")
    checker.check("most.jpg")
    with pytest.raises(Rejected, match="has 101 scans, expected at most 100"):
        checker.check("more.jpg")


def test_scan_markers_inside_metadata_do_not_count(image_dir: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG", comment=b"\xff\xda" * 500)
    (image_dir / "comment.jpg").write_bytes(buffer.getvalue() + b"\xff\xda\x00\x02" * 500)
    ImageChecker(image_dir, "decode").check("comment.jpg")


def test_a_file_above_the_size_limit_is_not_read(image_dir: Path) -> None:
    with (image_dir / "a.png").open("r+b") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(Rejected, match=r"has 134,217,729 bytes, expected at most 134,217,728"):
        ImageChecker(image_dir, "decode").check("a.png")


@pytest.mark.slow
def test_an_image_with_too_many_pixels_is_rejected_before_decoding(image_dir: Path) -> None:
    Image.new("1", (9460, 9459)).save(image_dir / "large.png")
    with pytest.raises(Rejected, match=r"DecompressionBombWarning: Image size \(89482140 pixels\)"):
        ImageChecker(image_dir, "decode").check("large.png")


def test_a_format_that_runs_a_program_is_not_opened(image_dir: Path) -> None:
    (image_dir / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with Image.open(image_dir / "page.png") as opened:
        assert opened.format == "EPS", "Pillow would hand it to Ghostscript"
    with pytest.raises(Rejected, match=r"cannot identify the format, expected JPEG, .* or AVIF"):
        ImageChecker(image_dir, "decode").check("page.png")


def test_only_the_first_frame_of_an_animation_is_decoded(image_dir: Path) -> None:
    frames = [Image.new("RGB", (50, 50), colour) for colour in ("red", "green", "blue")]
    frames[0].save(image_dir / "moves.gif", save_all=True, append_images=frames[1:])
    data = (image_dir / "moves.gif").read_bytes()
    (image_dir / "moves.gif").write_bytes(data[:-20])
    ImageChecker(image_dir, "decode").check("moves.gif")


def test_none_checks_only_the_path(image_dir: Path) -> None:
    checker = ImageChecker(None, "none")
    checker.check("anything.png")
    assert reason_of(checker, "../anything.png") is Reason.IMAGE_OUTSIDE


def test_a_folder_is_listed_once(image_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(path), scandir(path))[1])
    checker = ImageChecker(image_dir, "exists")
    for _ in range(3):
        checker.check("sub/b.png")
        reason_of(checker, "sub/c.png")
    assert len(listed) == 1


def test_no_folder_is_listed_twice_even_beyond_the_cache_limit(
    image_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(path), scandir(path))[1])
    checker = ImageChecker(image_dir, "exists", 4)
    for _ in range(20):
        for path in ("a.png", "sub/b.png", "sub/deep/ü ö.png"):
            checker.check(path)
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("name", ["pipe.png", "to_pipe.png", "to_device.png", "sub", "gone.png", "nowhere.png"])
def test_only_regular_files_are_opened_and_no_pipe_blocks(image_dir: Path, name: str) -> None:
    with pytest.raises(OSError, match=r"not a regular file|No such file"):
        open_regular(image_dir / name)


def test_a_pipe_put_in_place_of_a_file_just_before_it_is_opened_does_not_block(
    image_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regular = os.stat(image_dir / "a.png")
    monkeypatch.setattr(os, "stat", lambda *_: regular)
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(image_dir / "pipe.png")


def test_an_image_without_an_image_folder_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.image_dir is missing"):
        ImageChecker(None, "exists").check("a.png")


def test_a_missing_image_folder_is_refused(make_config: ConfigMaker, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        require_image_dir(make_config(dataset__image_dir=str(tmp_path / "nope")).dataset)
    require_image_dir(make_config(dataset__image_dir=str(tmp_path / "nope"), dataset__check_images="none").dataset)


@pytest.mark.slow
@needs_shared("images")
def test_every_unusual_image_decodes_or_is_rejected_with_a_message() -> None:
    root = shared_folder("images")
    checker = ImageChecker(root, "decode")
    outcomes = Counter[str]()
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in (".json", "") or not path.is_file():
            continue
        outcomes[_outcome(checker, path.relative_to(root).as_posix())] += 1
    assert outcomes["decodes"] > 100
    assert outcomes["rejected"] >= 10
    assert outcomes["rejected without a message"] == 0


def _outcome(checker: ImageChecker, path: str) -> str:
    try:
        checker.check(path)
    except Rejected as rejected:
        known = rejected.reason is Reason.IMAGE_UNREADABLE and path in rejected.detail
        return "rejected" if known else "rejected without a message"
    return "decodes"


@pytest.mark.parametrize("mode", ["none", "exists"])
def test_a_file_url_inside_the_image_folder_is_read_as_a_relative_path(
    tmp_path: Path, mode: Literal["none", "exists"]
) -> None:
    (tmp_path / "real" / "a b").mkdir(parents=True)
    (tmp_path / "real" / "a b" / "1.png").write_bytes(b"")
    (tmp_path / "link").symlink_to("real")
    checker = ImageChecker(tmp_path / "link", mode)
    for folder in ("link", "real"):
        assert checker.check(f"file://{tmp_path}/{folder}/a%20b/1.png") == "a b/1.png"
    assert checker.check(f"FILE://localhost{tmp_path}/real/a b/1.png") == "a b/1.png"
    assert checker.check("file:a%20b/1.png") == "a b/1.png"
    assert checker.check("a b/1.png") == "a b/1.png"
    for url in (f"file://{tmp_path}/other/1.png", f"file://{tmp_path}/real/../x.png", f"file://{tmp_path}/realm/1.png"):
        with pytest.raises(Rejected) as rejected:
            checker.check(url)
        assert rejected.value.reason is Reason.IMAGE_OUTSIDE


@pytest.mark.parametrize(
    "url",
    [
        "http://x.org/a.png",
        "HTTPS://x.org/a.png",
        "s3://bucket/a.png",
        "data:image/png;base64,iVBORw0KGgo=",
        "file://host/a.png",
        "file://[/a.png",
    ],
)
@pytest.mark.parametrize("mode", ["none", "exists"])
def test_an_image_that_is_not_a_local_file_is_rejected(
    tmp_path: Path, url: str, mode: Literal["none", "exists"]
) -> None:
    with pytest.raises(Rejected) as rejected:
        ImageChecker(tmp_path, mode).check(url)
    assert rejected.value.reason is Reason.IMAGE_NOT_LOCAL
    assert len(rejected.value.detail) < 200
    assert ("expected file:/// and an absolute path" in rejected.value.detail) is (url == "file://host/a.png")


@pytest.mark.parametrize("name", ["a:b.png", "12:30.png", "c:/a.png"])
def test_a_path_with_a_colon_is_not_a_url(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    assert ImageChecker(tmp_path, "exists").check(name) == name
