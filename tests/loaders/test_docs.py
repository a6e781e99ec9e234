"""The code of docs/loaders.md runs, and does what the page states about accelerate and the Trainer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the loaders need torch")
pytest.importorskip("accelerate", reason="docs/loaders.md shows the loader in accelerate and the Trainer")

from conftest import CHECKOUT, QUICKSTART, write_jsonl  # noqa: E402
from written import IMAGES, records_of, second  # noqa: E402

from loaders import create_dataloader  # noqa: E402

PAGE = (CHECKOUT / "docs" / "loaders.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
BLOCKS = [
    (section.partition("\n")[0], code)
    for section in PAGE.split("\n## ")[1:]
    for code in re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    if "def make_model" not in code
]


class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A small model that records the ids it received."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(2048, 8)
        self.head = torch.nn.Linear(8, 2048)
        self.seen: list[Any] = []

    def forward(self, batch: dict[str, Any]) -> Any:
        self.seen.append(batch["text_input_ids"].clone())
        vectors = self.embed(batch["text_input_ids"].long())
        return self.head(vectors + batch["image_data"].float().mean((1, 2, 3))[:, None, None])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the dataset, images and tokenizer that the page uses."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "phase2").symlink_to(second().root)
    (tmp_path / "images").symlink_to(IMAGES)
    (tmp_path / "tokenizer").symlink_to(QUICKSTART / "tokenizer")
    write_jsonl(tmp_path / "records.jsonl", records_of(10, "first"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(heading: str, **names: Any) -> dict[str, Any]:
    """Execute the block under a heading; `made` lists the models that it created."""
    made: list[Model] = []

    def make_model() -> Model:
        torch.manual_seed(0)
        made.append(Model())
        return made[-1]

    code = dict(BLOCKS)[heading]
    namespace: dict[str, Any] = {"__name__": "page", "make_model": make_model, "made": made, **names}
    exec(compile(code, f"docs/loaders.md, {heading}", "exec"), namespace)
    return namespace


def test_every_code_block_of_the_page_is_tested_here() -> None:
    assert [heading for heading, _ in BLOCKS] == [
        "A batch",
        "A plain torch loop",
        "With accelerate",
        "With the Hugging Face Trainer",
        "The lazy dataset",
    ]
    assert PAGE.count("```python") == len(CODE) == len(BLOCKS) + 1


@pytest.mark.long
def test_the_code_of_the_page_runs_unchanged_in_a_new_process(place: Path) -> None:
    script = place / "page.py"
    script.write_text("\n".join(CODE), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "'images': (2, 3, 336, 336)" in done.stdout
    assert (place / "trained" / "checkpoint-10").is_dir()


@pytest.mark.slow
def test_the_batch_example_prints_the_documented_shape(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("A batch")
    assert "'image_data': ((16, 3, 112, 112), torch.float16)" in capsys.readouterr().out


@pytest.mark.long
def test_a_killed_plain_torch_loop_resumes_at_the_next_batch(place: Path) -> None:
    whole = run("A plain torch loop")["made"][0].seen
    assert len(whole) == 2 * (100 // 8)

    class Killed(Exception):
        pass

    def killed_after(steps: int) -> Any:
        model = Model()
        forward = model.forward

        def counting(batch: dict[str, Any]) -> Any:
            if len(model.seen) == steps:
                raise Killed
            return forward(batch)

        model.forward = counting
        return model

    (place / "loader.json").unlink()
    first_model = killed_after(15)
    code = dict(BLOCKS)["A plain torch loop"]
    with pytest.raises(Killed):
        exec(compile(code, "docs/loaders.md", "exec"), {"make_model": lambda: first_model})
    rest = run("A plain torch loop")["made"][0].seen
    for ours, expected in zip(first_model.seen + rest, whole, strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.slow
def test_accelerate_keeps_the_batches_and_restores_the_position(place: Path) -> None:
    names = run("With accelerate")
    expected = [batch["text_input_ids"] for batch in create_dataloader("out/phase2", None, 8)]
    seen = names["made"][0].seen
    assert all(torch.equal(ours, batch) for ours, batch in zip(seen, expected, strict=True))
    loader, accelerator = names["loader"], names["accelerator"]
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state = loader.state_dict()
    accelerator.save_state("checkpoint")
    after = next(batches)
    accelerator.load_state("checkpoint")
    assert loader.state_dict() == state
    assert torch.equal(next(iter(loader))["text_input_ids"], after["text_input_ids"])


_RANK = """
import sys, torch
from accelerate import Accelerator
from loaders import create_dataloader
accelerator = Accelerator(cpu=True)
loader = accelerator.prepare(create_dataloader(sys.argv[1], batch_size=6))
torch.save([batch["text_input_ids"] for batch in loader], f"{sys.argv[2]}/{accelerator.process_index}.pt")
"""


@pytest.mark.long
def test_accelerate_with_two_processes_reads_the_same_global_batches(tmp_path: Path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(2):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
        environment |= {"MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(CHECKOUT), "ACCELERATE_USE_CPU": "true"}
        command = [sys.executable, "-c", _RANK, str(second().root), str(tmp_path)]
        ranks.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    expected = [batch["text_input_ids"] for batch in create_dataloader(second().root, batch_size=12)]
    for whole, left, right in zip(expected, *parts, strict=True):
        assert torch.equal(whole, torch.cat([left, right]))


@pytest.mark.long
def test_the_trainer_trains_and_resumes_at_the_same_batch(place: Path) -> None:
    names = run("With the Hugging Face Trainer")
    whole = names["made"][0].seen
    expected = [batch["text_input_ids"] for batch in create_dataloader("out/phase2", None, 8)]
    assert all(torch.equal(ours, batch) for ours, batch in zip(whole, expected, strict=True))
    state = json.loads((place / "trained" / "checkpoint-10" / "trainer_state.json").read_text())
    assert state["global_step"] == 10

    names["arguments"].num_train_epochs = 2
    model = names["make_model"]()
    names["ShardTrainer"](model=model, args=names["arguments"]).train(resume_from_checkpoint="trained/checkpoint-10")
    loader = create_dataloader("out/phase2", None, 8)
    two_epochs = [batch["text_input_ids"] for _ in range(2) for batch in loader]
    assert all(torch.equal(ours, batch) for ours, batch in zip(model.seen, two_epochs[10:], strict=True))

    # and in the second epoch, which has a different order
    model = names["make_model"]()
    names["ShardTrainer"](model=model, args=names["arguments"]).train(resume_from_checkpoint="trained/checkpoint-15")
    assert all(torch.equal(ours, batch) for ours, batch in zip(model.seen, two_epochs[15:], strict=True))


def test_the_lazy_dataset_example_prints_the_documented_shape(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("The lazy dataset")
    assert "'images': (2, 3, 336, 336)" in capsys.readouterr().out
