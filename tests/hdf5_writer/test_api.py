"""`import hdf5_writer` from scripts and notebooks; docs/python.md and docs/examples run unchanged."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import CHECKOUT, QUICKSTART, write_jsonl

import hdf5_writer
from hdf5_writer.layout import OutputLayout
from preprocess.config import ConfigError

EXAMPLES = CHECKOUT / "docs" / "examples"
BLOCKS = re.findall(r"^```python\n(.*?)^```", (CHECKOUT / "docs" / "python.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> hdf5_writer.DatasetResult:
    root = tmp_path_factory.mktemp("api")
    records = [
        {"id": "a", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello <b>"}]},
        {"id": "b", "conversations": []},
    ]
    write_jsonl(root / "in" / "a.jsonl", records)
    config = hdf5_writer.load_config(
        "quickstart", setup__input_dir=root / "in", setup__output_dir=root / "out", setup__processes=1
    )
    return hdf5_writer.create_dataset(config)


@pytest.mark.slow
def test_a_result_counts_and_lists_every_record(result: hdf5_writer.DatasetResult) -> None:
    assert (result.counts["read"], result.counts["written"], result.counts["rejected"]) == (2, 1, 1)
    for _ in range(2):  # from the start each time
        assert [(reject["line"], reject["reason"]) for reject in result.rejects] == [(2, "no_turns")]
    assert result.too_many_rejects
    assert result.report == OutputLayout(result.output_dir).report
    assert result.report.is_file()
    assert repr(result).endswith("2 records read, 1 written to 1 shard(s), 1 rejected>")
    assert "<td" in result._repr_html_()


@pytest.mark.slow
def test_a_finished_dataset_is_returned_at_once(result: hdf5_writer.DatasetResult) -> None:
    config = hdf5_writer.load_config(
        "quickstart",
        setup__input_dir=result.output_dir.parent / "in",
        setup__output_dir=result.output_dir,
        setup__processes=1,
    )
    again = hdf5_writer.create_dataset(config)
    assert again.already_done
    assert again.params == result.params


def test_rows_have_a_text_and_an_html_representation(result: hdf5_writer.DatasetResult) -> None:
    rows = hdf5_writer.inspect_rows(result.output_dir, -1)
    assert len(rows) == 1
    assert rows[0].samples[0].source == "a.jsonl:1"
    assert "Hello <b>" in repr(rows)
    page = rows._repr_html_()
    assert page.startswith("<iframe srcdoc=")
    assert "<b>" not in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"setup__processes": 0}, "argument 'setup__processes=0': setup.processes is 0"),
        ({"setup__proceses": 1}, "did you mean setup.processes?"),
        ({"processes": 1}, "expected section__key=value"),
        ({"setup__dask__scheduler_address": 1}, "setup.dask.scheduler_address is 1"),
    ],
)
def test_an_invalid_override_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        hdf5_writer.load_config("quickstart.yaml", **arguments)


def test_a_config_may_be_a_dict(tmp_path: Path) -> None:
    values = {
        "setup": {"input_dir": tmp_path, "output_dir": str(tmp_path / "out")},
        "processor": {"tokenizer_type": QUICKSTART / "tokenizer"},
        "dataset": {"system_prompt_style": "plain"},
    }
    config = hdf5_writer.load_config(values, setup__dask__scheduler_address="tcp://a:1")
    assert config.setup.input_dir == tmp_path
    assert config.processor.tokenizer_type == str(QUICKSTART / "tokenizer")
    assert config.setup.dask.scheduler_address == "tcp://a:1"
    assert values["setup"].keys() == {"input_dir", "output_dir"}, "the caller's values are not modified"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({"limit": limit}, f"limit is {limit!r}, expected a whole number") for limit in (0, -1, "5", 2.5, True)),
        ({"skip_tasks": 1}, "skip_tasks is 1, expected a list of task numbers"),
        ({"skip_tasks": "1"}, "skip_tasks is '1', expected a list of task numbers"),
        ({"skip_tasks": [-1]}, r"skip_tasks is \[-1\], expected a list of task numbers"),
        ({"config": "my.yaml"}, "config is 'my.yaml', expected a Config; make one with load_config"),
    ],
)
def test_wrong_arguments_of_create_dataset_are_config_errors(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    config = hdf5_writer.load_config("quickstart", setup__output_dir=tmp_path / "out", setup__processes=1)
    with pytest.raises(ConfigError, match=message):
        hdf5_writer.create_dataset(**{"config": config, **arguments})
    assert not (tmp_path / "out").exists()


def test_missing_folders_and_rows_are_named(tmp_path: Path, result: hdf5_writer.DatasetResult) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        hdf5_writer.verify_dataset(tmp_path / "none")
    with pytest.raises(ConfigError, match="row 1: the dataset has 1 rows"):
        hdf5_writer.inspect_rows(result.output_dir, [0, 1])


def test_the_package_itself_imports_nothing_heavy() -> None:
    code = "import sys, hdf5_writer; print(sorted(sys.modules & {'numpy', 'h5py', 'pydantic'})); hdf5_writer.nothing"
    code = code.replace("sys.modules &", "sys.modules.keys() &")
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.stdout == "[]\n"
    assert "AttributeError: module 'hdf5_writer' has no attribute 'nothing'" in done.stderr
    assert set(hdf5_writer.__all__) <= set(dir(hdf5_writer))


@pytest.mark.slow
def test_every_code_block_of_the_python_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "page"}
    assert len(BLOCKS) >= 6
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), namespace)
    assert namespace["same"].processor == namespace["config"].processor
    assert namespace["findings"].rows == 55


def run_example(name: str, place: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_example_of_rejects_lists_each_with_its_reason(tmp_path: Path) -> None:
    printed = run_example("find_rejects.py", tmp_path)
    reasons = re.findall(r"line \d+: (\w+):", printed)
    assert reasons == ["image_missing", "image_without_token", "role_order", "no_turns", "not_json"]


@pytest.mark.long
def test_the_example_of_labels_finds_no_difference(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the on-the-fly side needs torch")
    assert run_example("compare_labels.py", tmp_path).endswith("55 samples compared, 0 differ\n")


@pytest.mark.long
def test_the_example_from_json_trains_a_model(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the example trains with torch")
    printed = run_example("json_to_model.py", tmp_path)
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", printed)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.long
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="notebooks are executed by nbclient")
    pytest.importorskip("ipykernel", reason="notebooks need a kernel")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    notebook = nbformat.read(EXAMPLES / "look_at_rows.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit the notebook without outputs"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = [data["text/html"] for data in shown if "text/html" in data]
    assert any("<table>" in page and "supervised tokens" in page for page in pages)
    assert any(page.startswith("<iframe") for page in pages)
