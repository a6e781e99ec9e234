"""Finding the files of a dataset."""

import pytest

from preprocess.converters.core.errors import InputError
from preprocess.converters.core.sources import files, nothing_found


def test_files_are_found_at_any_depth_and_through_links(tmp_path):
    for name in ("in/b.tar", "in/a/c.tar", "in/a/c.txt", "elsewhere/d.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    root = tmp_path / "in"
    (root / "z").symlink_to(tmp_path / "elsewhere")
    assert files([root], "--input", ".tar") == [(root, root / name) for name in ("a/c.tar", "b.tar", "z/d.tar")]
    with pytest.raises(InputError, match=r"which has no \.parquet files"):
        files([root], "--input", ".parquet")


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path, forbid):
    (tmp_path / "in/b").mkdir(parents=True)
    (tmp_path / "in/a.tar").touch()
    forbid(tmp_path / "in/b")
    with pytest.raises(PermissionError) as refused:
        files([tmp_path / "in"], "--input", ".tar")
    assert refused.value.filename == str(tmp_path / "in/b")
    forbid(tmp_path / "in")
    with pytest.raises(PermissionError):
        nothing_found("--input_dir", tmp_path / "in", "*.json files")
