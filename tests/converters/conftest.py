import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

from preprocess.preprocess_dataset import main


@dataclass
class Result:
    code: int
    out: str
    err: str
    records: list
    rejects: list

    @property
    def reasons(self):
        return [(reject["position"], reject["reason"]) for reject in self.rejects]


def json_lines(path):
    data = path.read_bytes()
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


@pytest.fixture
def preprocess(capsys):
    """Run a command; the result contains the files of the folder `into`."""

    def run(*arguments, into):
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        files = sorted(Path(into).rglob("*.jsonl"))
        rejects = [line for path in files if path.name.endswith(".rejects.jsonl") for line in json_lines(path)]
        records = [line for path in files if not path.name.endswith(".rejects.jsonl") for line in json_lines(path)]
        return Result(code, captured.out, captured.err, records, rejects)

    return run


@pytest.fixture
def write_json():
    def write(path, value, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, **options), encoding="utf-8")
        return path

    return write


@pytest.fixture
def image_bytes():
    """Bytes of a small image in a given format, different for each colour."""

    def make(colour, image_format="JPEG"):
        from PIL import Image

        buffer = BytesIO()
        Image.new("RGB", (8, 8), colour).save(buffer, image_format)
        return buffer.getvalue()

    return make
