import ast
import re
from pathlib import Path

import pytest

import preprocess.converters
from preprocess.converters.registry import CONVERTERS

COMMANDS = [
    "ai2d",
    "arxivcap",
    "arxivqa",
    "chartqa",
    "sp_docvqa",
    "infographics_docvqa",
    "dvqa",
    "synthdog_en",
    "captions",
    "parquet",
    "webdataset",
    "convert_json2jsonl",
]


def test_the_commands_are_those_of_the_recipe_and_the_help_lists_them(preprocess, tmp_path):
    assert [dataset.name for dataset in CONVERTERS] == COMMANDS
    result = preprocess("-h", into=tmp_path)
    assert result.code == 0
    assert re.findall(r"^    (\w+)", result.out, re.MULTILINE) == [*COMMANDS, "instructions"]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("ai2d", "--question_dir --output_jsonl_dir"),
        ("arxivcap", "--input_dir --output_jsonl_dir --output_image_dir --image_prefix --parquet_range"),
        ("arxivqa", "--input_file --output_jsonl_dir"),
        ("chartqa", "--dataset_folder"),
        ("sp_docvqa", "--dataset_folder"),
        ("infographics_docvqa", "--dataset_folder"),
        ("dvqa", "--dataset_folder"),
        ("synthdog_en", "--input_dir --output_jsonl_dir --output_image_dir --image_prefix --parquet_range"),
        ("captions", "--input --format --image_prefix --output_jsonl_dir"),
        ("convert_json2jsonl", "--input_dir --output_dir"),
    ],
)
def test_the_help_of_a_command_names_its_inputs_and_outputs(preprocess, tmp_path, command, arguments):
    result = preprocess(command, "-h", into=tmp_path)
    assert result.code == 0
    for argument in [*arguments.split(), "--overwrite"]:
        assert f"  {argument} " in result.out
    assert "Reads " in result.out
    assert "Writes " in result.out
    assert "Exit codes" in result.out
    assert f"example: preprocess_dataset {command} --" in result.out


def test_a_missing_or_wrong_command_is_refused(preprocess, tmp_path):
    assert preprocess(into=tmp_path).code == 2
    assert preprocess("ai3d", into=tmp_path).code == 2
    assert preprocess("ai2d", "--question_dir", tmp_path, into=tmp_path).code == 2


@pytest.mark.slow
def test_converters_do_not_import_hdf5_or_torch_and_import_pyarrow_only_when_needed():
    for path in Path(preprocess.converters.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.split(".")[0]
                assert top not in ("torch", "hdf5_writer", "loaders", "trainer", "h5py"), (path, name)
                assert top != "pyarrow" or (path.name == "parquet.py" and node not in tree.body), (path, name)


@pytest.mark.slow
def test_no_input_is_evaluated_as_code():
    for path in Path(preprocess.converters.__file__).parent.rglob("*.py"):
        calls = [
            n.func.id
            for n in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        ]
        assert not {"eval", "exec", "literal_eval", "compile"} & set(calls), path
