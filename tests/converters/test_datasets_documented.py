import argparse
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

import preprocess.converters
import preprocess.preprocess_dataset
from preprocess.converters.core.job import check, run
from preprocess.converters.registry import CONVERTERS
from preprocess.preprocess_dataset import convert_json2jsonl_main, main

DOCS = Path(__file__).resolve().parents[2] / "docs"
TABLE = (DOCS / "datasets.md").read_text(encoding="utf-8")
# Commands are between backticks in the tables, and lines of code below them.
COMMANDS = sorted(
    set(re.findall(r"(?m)(?:`|^)((?:preprocess_dataset|convert_json2jsonl) [^`…\n]*--[^`\n]*)(?:`|$)", TABLE))
)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "DIR" not in c])
def test_documented_commands_fail_only_for_missing_data(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name, *arguments = shlex.split(command)
    code = main(arguments) if name == "preprocess_dataset" else convert_json2jsonl_main(arguments)
    assert code == 2
    assert "which does not exist" in capsys.readouterr().err


def test_every_command_is_documented():
    for dataset in CONVERTERS:
        assert any(dataset.name in command.split()[:2] for command in COMMANDS), dataset.name


def test_the_example_of_a_new_dataset_works_unchanged(tmp_path, write_json, monkeypatch):
    guide = (DOCS / "add_a_dataset.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(\"\"\".*?)```", guide, re.DOTALL)
    module_path = tmp_path / "textvqa.py"
    module_path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("textvqa", module_path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    # The last line of the page's code, in a copy of the registry.
    (line,) = re.findall(r"```python\n(from preprocess.*?)```", guide, re.DOTALL)
    monkeypatch.setitem(sys.modules, "preprocess.converters.textvqa", module)
    monkeypatch.setattr(preprocess.converters, "textvqa", module, raising=False)
    registry = {}
    exec((Path(preprocess.converters.__file__).parent / "registry.py").read_text(encoding="utf-8") + line, registry)
    assert registry["CONVERTERS"] == (*CONVERTERS, module.CONVERTER)
    monkeypatch.setattr(preprocess.preprocess_dataset, "CONVERTERS", registry["CONVERTERS"])
    with pytest.raises(SystemExit) as shown:
        main(["textvqa", "-h"])
    assert shown.value.code == 0

    entry = {
        "question_id": 34602,
        "question": "what brand?",
        "image_id": "0054c91397f2fe05",
        "answers": ["nous les gosses"],
    }
    write_json(tmp_path / "data/TextVQA_0.5.1_train.json", {"dataset_type": "train", "data": [entry, {}]})
    parser = argparse.ArgumentParser()
    module.CONVERTER.add_arguments(parser)
    (job,) = module.CONVERTER.plan(parser.parse_args(["--dataset_folder", str(tmp_path / "data")]))
    counts = run(job, overwrite=False)
    assert (counts.read, counts.written, counts.rejected) == (2, 1, {"no_image": 1})
    assert check(job, overwrite=False) == counts
    assert b'"image":"textvqa/train_images/0054c91397f2fe05.jpg"' in job.output.read_bytes()
