"""`instructions send` against a real server, `transformers serve` with a tiny model; client and server are killed."""

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
from conftest import QUICKSTART

pytestmark = pytest.mark.faults
for needed in ("openai", "fastapi", "uvicorn", "torch"):
    pytest.importorskip(needed, reason=f"transformers serve and its client need {needed}")

REQUESTS = 100


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
    """The process, on a port that stays the same when it is started again."""

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

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[Server]:
    made = Server(model, tmp_path / "server.log")
    yield made
    made.kill()


def test_killed_clients_and_servers_leave_one_answer_for_each_request(
    server: Server, model: Path, tmp_path: Path
) -> None:
    requests, out = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    with requests.open("w", encoding="utf-8") as file:
        for number in range(REQUESTS):
            messages = [{"role": "user", "content": f"A dog.\n\ndog: [0.1, 0.2, 0.3, {number / 1000}]"}]
            body = {"model": str(model), "max_tokens": 8, "messages": messages}
            line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    arguments = ["--requests", requests, "--results", out, "--base_url", server.url, "--in_flight", 4, "--retries", 12]
    command = [sys.executable, "-m", "preprocess.preprocess_dataset", "instructions", "send", *map(str, arguments)]

    def answered() -> int:
        return out.read_bytes().count(b"\n") if out.exists() else 0

    for least, victim in ((15, "client"), (30, "server"), (50, "client"), (65, "server"), (80, "client")):
        client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while answered() < least:
            assert client.poll() is None, "the client ended before all requests were answered"
            time.sleep(0.01)
        if victim == "server":
            server.kill()
            server.start()
        client.kill()
        client.wait()
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert sorted(line["custom_id"] for line in lines) == sorted(f"r{number}" for number in range(REQUESTS))
    assert {line["response"]["status_code"] for line in lines} == {200}
