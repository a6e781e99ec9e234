"""`instructions send` with a real server (`transformers serve`, a tiny model), both of which are killed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from coco_files import dog, write_coco
from conftest import QUICKSTART

pytestmark = pytest.mark.faults
for needed in ("openai", "fastapi", "uvicorn", "torch"):
    pytest.importorskip(needed, reason=f"transformers serve and its client need {needed}")

REQUESTS = 200
IN_FLIGHT = 4
KILLS = ("client", "client", "server", "client", "server", "client", "client")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(QUICKSTART / "tokenizer")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    return folder


class Server:
    """The server process, on a port that stays the same when it is restarted."""

    def __init__(self, model: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._model, self._log = model, log
        self.url = f"http://127.0.0.1:{self._port}/v1"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(self._model)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--port", str(self._port), "--device", "cpu"], stdout=log, stderr=log
            )
        while True:
            assert self._process.poll() is None, self._log.read_text(encoding="utf-8")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=5).close()
            except OSError:
                time.sleep(0.2)
            else:
                return

    def answered(self) -> int:
        """Requests that were answered, by the server's own log."""
        return self._log.read_text(encoding="utf-8").count('"POST /v1/chat/completions HTTP/1.1" 200')

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[Server]:
    made = Server(model, tmp_path / "server.log")
    yield made
    made.kill()


def command(step: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "preprocess.preprocess_dataset", "instructions", step, *map(str, arguments)]


def instructions(step: str, *arguments: object) -> str:
    return subprocess.run(command(step, *arguments), check=True, stdout=subprocess.PIPE, text=True).stdout


def test_each_request_has_one_answer_after_clients_and_servers_are_killed(
    server: Server, model: Path, tmp_path: Path
) -> None:
    annotations = write_coco(tmp_path / "annotations", [dog(number) for number in range(1, 1 + REQUESTS // 2)])
    prompts = tmp_path / "prompts"  # short ones, to save time
    prompts.mkdir()
    for kind in ("conversation", "detail", "reasoning"):
        questions = "questions: ['What is it?']\n" if kind == "detail" else ""
        (prompts / f"{kind}.yaml").write_text(f"system: Write about it.\n{questions}", encoding="utf-8")
    files = ["--captions", annotations[0], "--instances", annotations[1], "--prompts", prompts]
    asking = ["--kinds", "conversation", "detail", "--model", model, "--max_tokens", 8]
    instructions("requests", *files, *asking, "--output_dir", tmp_path / "asked")
    out = tmp_path / "results.jsonl"
    arguments = ["--requests", tmp_path / "asked", "--results", out, "--base_url", server.url]
    sending = command("send", *arguments, "--in_flight", IN_FLIGHT, "--retries", 12)

    def started() -> subprocess.Popen[bytes]:
        return subprocess.Popen(sending, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answered() -> int:
        return out.read_bytes().count(b"\n") if out.exists() else 0

    client = started()
    try:
        for number, victim in enumerate(KILLS, start=1):
            while answered() < number * REQUESTS // (len(KILLS) + 1):
                assert client.poll() is None, "the client ended before all requests were answered"
                time.sleep(0.01)
            if victim == "server":  # the client stays, and waits for the server to come back
                server.kill()
                server.start()
            else:
                client.kill()
                client.wait()
                client = started()
        assert client.wait(timeout=300) == 0
    finally:
        client.kill()
        client.wait()
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    asked = (line for path in (tmp_path / "asked").glob("requests-*.jsonl") for line in path.open("rb"))
    assert sorted(line["custom_id"] for line in lines) == sorted(json.loads(line)["custom_id"] for line in asked)
    assert len(lines) == REQUESTS
    assert {line["response"]["status_code"] for line in lines} == {200}
    # Only requests that were in flight during a kill were sent twice.
    assert server.answered() <= REQUESTS + IN_FLIGHT * len(KILLS)

    read = ["--requests_dir", tmp_path / "asked", "--results", out, "--image_prefix", "train", "--prompts", prompts]
    output = instructions("read", *read, "--output_dir", tmp_path / "read")
    assert f"{REQUESTS} answers read = " in output
    report = json.loads((tmp_path / "read" / "report.json").read_bytes())
    # A random model generates up to the length limit, unless it happens to generate the end token.
    assert sum(report["rejected"].values()) + sum(kind["records"] for kind in report["kinds"].values()) == REQUESTS
    assert report["rejected"]["cut_off"] > REQUESTS / 2
