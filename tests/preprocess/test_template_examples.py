from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import CHECKOUT

from preprocess.templates import STYLES
from preprocess.templates.__main__ import example_rows

PAGE = CHECKOUT / "docs" / "templates.md"


@pytest.mark.slow
def test_the_page_shows_the_example_rows_printed_by_the_command() -> None:
    found = re.search("<!-- example rows -->\n(.*)\n<!-- end of example rows -->", PAGE.read_text("utf-8"), re.DOTALL)
    assert found
    assert found[1] == example_rows()
    command = [sys.executable, "-m", "preprocess.templates"]
    printed = subprocess.run(command, capture_output=True, check=True, cwd=CHECKOUT, encoding="utf-8").stdout
    assert printed == example_rows() + "\n"


def test_the_page_lists_every_template() -> None:
    listed = set(
        re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| (`[^|]*)\|", PAGE.read_text("utf-8"), re.MULTILINE)))
    )
    assert set(STYLES) <= listed


@pytest.mark.slow
def test_ids_are_computed_without_importing_transformers() -> None:
    code = "import sys; from preprocess.templates.__main__ import example_rows; example_rows(); print(*sys.modules)"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, check=True, cwd=CHECKOUT, encoding="utf-8").stdout.split()
    assert "tokenizers" in loaded
    assert "transformers" not in loaded
