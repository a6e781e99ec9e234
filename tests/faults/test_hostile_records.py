"""Any line gives one row or one reject, without a crash and with bounded memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import QUICKSTART, ConfigMaker, create, turn_pair
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hdf5_writer.verify import verify_dataset

pytestmark = pytest.mark.faults

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_TOKENS = json.loads((QUICKSTART / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
_TEXT = st.one_of(
    st.text(max_size=30),
    st.text(st.characters(max_codepoint=31), max_size=6),
    st.sampled_from(sorted(_TOKENS)),
    st.sampled_from(["<image>", "</s>", "<s>", "<unk>", "▁", "\ud800", "\x00"]),
)
_TURN = st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt", "system", ""]) | _JSON, "value": _TEXT | _JSON})
_PATH = st.sampled_from(
    ["shapes/0001.png", "../x.png", "/etc/passwd", "a\0b.png", "shapes/../../x", "\ud800.png", "x" * 300, "."]
)
_PART = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": _TEXT}),
    st.fixed_dictionaries({"type": st.sampled_from(["image", "image_url"]), "url": _PATH | _JSON}),
    _JSON,
)
_MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": _TEXT | st.lists(_PART, max_size=3)}
)
_RECORD = st.fixed_dictionaries(
    {},
    optional={
        "id": _JSON,
        "image": _PATH | st.lists(_PATH, max_size=2) | _JSON,
        "images": st.lists(_PATH, max_size=2) | _JSON,
        "system": _TEXT | _JSON,
        "messages": st.lists(_MESSAGE, max_size=3) | _JSON,
        "conversations": st.lists(_TURN, max_size=4) | st.tuples(_TEXT, _TEXT).map(lambda t: turn_pair(*t)) | _JSON,
    },
)
LINES = st.one_of(
    st.binary(max_size=60).map(lambda data: data.replace(b"\n", b" ")),
    _JSON.map(lambda value: json.dumps(value).encode()),
    _RECORD.map(lambda value: json.dumps(value).encode()),
)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(lines=st.lists(LINES, min_size=1, max_size=12), style=st.sampled_from(["plain", "vicuna_v1", "llama_2"]))
def test_arbitrary_lines_become_rows_or_rejects(
    make_config: ConfigMaker, tmp_path: Path, lines: list[bytes], style: str
) -> None:
    (tmp_path / "in").mkdir(exist_ok=True)
    content = [line for line in lines if line.strip(b" \t\r\n") not in (b"", b"\xef\xbb\xbf")]
    # A record that is always present, so that a plan can be made.
    (tmp_path / "in" / "a.jsonl").write_bytes(b"{}\n" + b"\n".join(content))
    config = make_config(dataset__system_prompt_style=style, processor__max_sequence_length=400)
    counts = create(config, overwrite=True).params["counts"]
    assert counts["read"] == counts["written"] + counts["rejected"] == len(content) + 1
    assert verify_dataset(tmp_path / "out").problems == []
    for line in (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8").splitlines():
        assert json.loads(line)["detail"]


# Stated in docs/config.md: the memory of a worker stays below this for any records.
MEMORY_BOUND = 2 << 30


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: b'{"conversations": "' + b"x" * 200_000_000 + b'"}', id="200 MB in one line"),
        pytest.param(lambda: b'{"conversations": ' + b"[" * 5_000_000, id="a deep list"),
        pytest.param(lambda: b'{"id": ' + b"9" * 5_000_000 + b', "conversations": []}', id="a huge number"),
        pytest.param(
            lambda: json.dumps({"conversations": turn_pair("x" * 7_000_000, "y" * 7_000_000)}).encode(),
            id="a word of 15 MB",
        ),
        pytest.param(
            lambda: json.dumps({"conversations": turn_pair("字" * 900_000, "A")}, ensure_ascii=False).encode(),
            id="no space in Chinese",
        ),
        pytest.param(
            lambda: json.dumps({"conversations": turn_pair(" " * 900_000 + "a", "A")}).encode(), id="only spaces"
        ),
        pytest.param(
            lambda: json.dumps({"conversations": turn_pair("a b c " * 2_000_000, "A")}).encode(), id="many words"
        ),
        pytest.param(lambda: json.dumps({"conversations": turn_pair("Q", "A") * 200_000}).encode(), id="many turns"),
        pytest.param(
            lambda: json.dumps({"conversations": turn_pair("Q", "A") * 500_000}).encode(), id="a million turns"
        ),
        pytest.param(lambda: json.dumps({str(i): i for i in range(900_000)}).encode(), id="many keys"),
        # Just below the maximum line length; of all lines tried, this one needs the most memory.
        pytest.param(lambda: b'{"conversations":[' + b"{}," * 5_500_000 + b"{}]}", id="millions of objects"),
        pytest.param(
            lambda: (
                b'{"messages":[{"role":"user","content":[' + b'{"type":"image"},' * 980_000 + b'{"type":"image"}]}]}'
            ),
            id="millions of image parts",
        ),
        pytest.param(
            lambda: b"\n".join([b'{"conversations":[' + b"{}," * 5_500_000 + b"{}]}"] * 5),
            id="five of them read together",
        ),
    ],
)
def test_a_huge_line_uses_bounded_memory(tmp_path: Path, make: Callable[[], bytes]) -> None:
    data = tmp_path / "a.jsonl"
    good: dict[str, Any] = {"conversations": turn_pair("Q", "A")}
    line = make()
    data.write_bytes(json.dumps(good).encode() + b"\n" + line + b"\n")
    lines = 1 + line.count(b"\n")
    del line
    command = [sys.executable, "-m", "hdf5_writer.create_hdf5_dataset", "--config", "quickstart.yaml"]
    command += [f"setup.input_dir={data}", "setup.processes=1", "setup.max_reject_fraction=1"]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BOUND, MEMORY_BOUND)),
    )
    assert result.returncode == 0, result.stderr[-500:]
    counts = json.loads((tmp_path / "quickstart_output" / "data_params.json").read_text())["counts"]
    assert counts["read"] == counts["written"] + counts["rejected"] == 1 + lines
