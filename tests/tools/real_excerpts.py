"""Folder of real dataset excerpts beside the checkout; they are not part of the project."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
with_real_excerpts = pytest.mark.skipif(
    not (SHARED / "raw").is_dir(), reason="the real excerpts of the datasets (../shared) are not beside this checkout"
)
