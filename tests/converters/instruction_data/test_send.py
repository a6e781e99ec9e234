"""`instructions send` with a server that answers, refuses, stalls or disconnects as each request asks."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from preprocess import preprocess_dataset
from preprocess.converters.core.errors import InputError, UnfinishedError
from preprocess.converters.instruction_data.journal import Journal
from preprocess.converters.instruction_data.send import Endpoint, _seconds, checked_key, send_all

pytest.importorskip("openai")
KEY = "sk-very-secret"
REQUEST = '{"custom_id": "a", "body": {"model": "m", "messages": []}}'


class Server(ThreadingHTTPServer):
    """Acts as the text of the request says: `ok`, or `503 ok` for an error first, then an answer."""

    daemon_threads = False  # closing the server waits for its handlers, so that none fails after the test

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: list[str] = []
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.times: list[float] = []
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.pauses_after: int | None = None
        self.paused = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """Record the errors of handlers. A connection closed by the client is not an error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            self.faults.append(traceback.format_exc())


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds without a byte from the client

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        content = self.rfile.read(length)
        if len(content) < length:
            raise ConnectionAbortedError("the client closed the connection before its request was complete")
        body = json.loads(content)
        text = body["messages"][-1]["content"]
        name, *steps = text.split()
        with self.server.lock:
            step = steps[min(self.server.asked[name], len(steps) - 1)]
            self.server.asked[name] += 1
            self.server.times.append(time.monotonic())
        if step == "cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
            self.close_connection = True
        elif step == "stall":
            self.server.ended.wait(60)
            self.close_connection = True
        elif step == "malformed":
            self._send(200, b'{"choices": [')
        elif step == "page":
            self._send(200, b"<html>busy</html>")
        elif step == "leak":
            self._send(200, f"<html>{'.' * 70} {KEY}</html>".encode())
        elif step == "none":
            self._send(200, b'{"choices": [{"message": {"content": "none of them"}}]}')
        elif step == "wait":
            self._send(429, b'{"error": {"message": "slow down"}}', ("Retry-After", "0.4"))
        elif step.isdigit():
            self._send(int(step), json.dumps({"error": {"message": f"no, {KEY}"}}).encode())
        else:
            with self.server.lock:
                limit = self.server.pauses_after
                if limit is None or self.server.answered.total() < limit:
                    self.server.answered[name] += 1
                    limit = None
            if limit is not None:
                self.server.paused.set()
                self.server.ended.wait(60)
            answer = {"choices": [{"message": {"role": "assistant", "content": name}, "finish_reason": "stop"}]}
            self._send(200, json.dumps(answer).encode(), times=2 if step == "twice" else 1)

    def _send(self, status: int, body: bytes, *headers: tuple[str, str], times: int = 1) -> None:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers)
        whole = f"HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{head}\r\n"
        self.wfile.write((whole.encode() + body) * times)
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(caplog: pytest.LogCaptureFixture) -> Iterator[Server]:
    gc.freeze()  # so that only objects of this test are checked below
    with Server() as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.ended.set()
        made.shutdown()
    assert not made.faults, made.faults[0]
    gc.collect()  # a task or future logs an exception that was not retrieved when it is freed
    gc.unfreeze()
    logged = [*caplog.get_records("call"), *caplog.records]
    left = [record.getMessage() for record in logged if record.name == "asyncio"]
    assert not left, left[0]


def request(text: str) -> dict[str, object]:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return {"custom_id": text.split()[0], "method": "POST", "url": "/v1/chat/completions", "body": body}


def endpoint(server: Server, **changes: object) -> Endpoint:
    settings = {"key": KEY, "in_flight": 8, "timeout": 30.0, "retries": 3, "first_wait": 0.01, **changes}
    return Endpoint(server.url, **settings)


def results(path: Path) -> dict[str, dict[str, object]]:
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert len(lines) == len({line["custom_id"] for line in lines}), "a request has two answers"
    return {line["custom_id"]: line["response"] for line in lines}


@pytest.mark.slow
def test_each_request_is_answered_once_despite_any_server_error(server: Server, tmp_path: Path) -> None:
    texts = [
        f"{kind}-{number} {steps}"
        for kind, steps in {
            "plain": "ok",
            "busy": "503 ok",
            "conflict": "409 500 ok",
            "cut": "cut ok",
            "stall": "stall ok",
            "malformed": "malformed page ok",
            "double": "twice",
        }.items()
        for number in range(3)
    ]
    path = tmp_path / "results.jsonl"
    with Journal(path) as journal:
        sent = send_all(map(request, texts), len(texts), journal, endpoint(server, timeout=1.5, retries=9))
    found = results(path)
    assert (sent.answered, sent.refused, sent.unanswered) == (len(texts), 0, 0)
    assert found.keys() == {text.split()[0] for text in texts}
    for name, response in found.items():
        assert response["status_code"] == 200
        assert response["body"]["choices"][0]["message"]["content"] == name, "an answer belongs to another request"


@pytest.mark.slow
def test_retry_after_delays_all_requests(server: Server, tmp_path: Path) -> None:
    with Journal(tmp_path / "results.jsonl") as journal:
        asked = map(request, ["a wait ok", *(f"b{number} ok" for number in range(4))])
        send_all(asked, 5, journal, endpoint(server, in_flight=1))
    assert list(server.asked) == ["a", "b0", "b1", "b2", "b3"]
    assert server.times[1] - server.times[0] >= 0.4


def test_permanent_errors_are_written_as_answers_without_the_key(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with Journal(path) as journal:
        sent = send_all(map(request, ["bad 400", "good ok"]), 2, journal, endpoint(server))
    assert (sent.answered, sent.refused) == (2, 1)
    assert results(path)["bad"]["status_code"] == 400
    assert KEY.encode() not in path.read_bytes()
    assert b"no, ***" in path.read_bytes()
    assert server.asked["bad"] == 1


def test_answers_are_unchanged_if_no_key_is_set(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    requests, out = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    requests.write_text(json.dumps(request("a none")), encoding="utf-8")
    assert run("--requests", requests, "--results", out, "--base_url", server.url) == 0
    assert results(out)["a"]["body"]["choices"][0]["message"]["content"] == "none of them"


def test_no_error_message_contains_the_key_or_a_part_of_it(server: Server, tmp_path: Path) -> None:
    with Journal(tmp_path / "results.jsonl") as journal:
        sent = send_all(map(request, ["a leak", "b ok", "c ok"]), 3, journal, endpoint(server, retries=0, in_flight=2))
    assert "expected a JSON object" in sent.last_problem
    assert "***" in sent.last_problem
    assert KEY[:6] not in sent.last_problem


def test_a_request_without_answer_is_sent_in_the_next_run(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    texts = ["never 500 500 500 500 ok", *(f"b{number} ok" for number in range(9))]
    with Journal(path) as journal:
        sent = send_all(map(request, texts), 10, journal, endpoint(server))
    assert (sent.answered, sent.unanswered) == (9, 1)
    assert "status 500" in sent.last_problem
    assert "never" not in results(path)
    with Journal(path) as journal:
        left = [text for text in texts if text.split()[0] not in journal.done]
        assert send_all(map(request, left), 1, journal, endpoint(server)).answered == 1
    assert len(results(path)) == 10
    assert all(number == 1 for number in server.answered.values())


@pytest.mark.faults
def test_clients_killed_while_sending_neither_lose_nor_repeat_written_answers(server: Server, tmp_path: Path) -> None:
    texts = [f"r{number} ok" for number in range(60)]
    requests, out = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    requests.write_text("\n".join(json.dumps(request(text)) for text in texts), encoding="utf-8")
    arguments = ["--requests", requests, "--results", out, "--base_url", server.url, "--in_flight", 2]
    command = [sys.executable, "-m", "preprocess.preprocess_dataset", "instructions", "send", *map(str, arguments)]
    for kills in range(1, 4):
        server.pauses_after = 15 * kills  # the client is sending when it is killed
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as client:
            assert server.paused.wait(60)
            client.kill()
        server.paused.clear()
    server.pauses_after = None
    subprocess.run(command, check=True, capture_output=True)
    assert results(out).keys() == {text.split()[0] for text in texts}
    # Two requests were in flight at each kill.
    assert sum(server.answered.values()) <= len(texts) + 2 * 3


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_a_refused_key_or_address_ends_the_run(server: Server, tmp_path: Path, status: str) -> None:
    texts = [f"r{number} {status}" for number in range(200)]
    with Journal(tmp_path / "r.jsonl") as journal, pytest.raises(UnfinishedError, match=f"status {status}") as caught:
        send_all(map(request, texts), 200, journal, endpoint(server))
    assert sum(server.asked.values()) <= 16
    assert KEY not in str(caught.value)


def test_a_server_that_answers_nothing_ends_the_run(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    texts = [f"r{number} 500" for number in range(200)]
    with Journal(tmp_path / "r.jsonl") as journal, pytest.raises(UnfinishedError, match="no request was answered"):
        send_all(map(request, texts), 200, journal, endpoint(server, retries=1))
    assert not capfd.readouterr().err.count("Traceback")
    assert sum(server.asked.values()) <= 40


def test_one_request_that_is_never_answered_does_not_delay_the_others(server: Server, tmp_path: Path) -> None:
    with Journal(tmp_path / "r.jsonl") as journal:
        sent = send_all(map(request, ["a 500", "b ok"]), 2, journal, endpoint(server, in_flight=1, retries=0))
    assert (sent.answered, sent.unanswered) == (1, 1)


def test_a_full_disk_ends_the_run(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(journal: Journal, lines: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "append", full)
    with Journal(tmp_path / "r.jsonl") as journal, pytest.raises(OSError, match="No space"):
        send_all(map(request, [f"a{n} ok" for n in range(50)]), 50, journal, endpoint(server))


def test_an_incomplete_line_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"custom_id":"a","response":{}}\n{"custom_id":"b","resp')
    with Journal(path) as journal:
        assert journal.done == {"a"}
        journal.append([b'{"custom_id":"c","response":{}}'])
        with pytest.raises(InputError, match="in use by another"):
            Journal(path)
    assert path.read_bytes() == b'{"custom_id":"a","response":{}}\n{"custom_id":"c","response":{}}\n'


def test_a_complete_result_without_a_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"custom_id":"a","response":{}}')
    with Journal(path) as journal:
        assert journal.done == {"a"}
        journal.append([b'{"custom_id":"b","response":{}}'])
    assert path.read_bytes() == b'{"custom_id":"a","response":{}}\n{"custom_id":"b","response":{}}\n'


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("content", [json.dumps(request("a ok")), "[1, 2]", "some text"])
def test_a_file_with_other_content_is_refused_and_not_changed(tmp_path: Path, content: str, end: str) -> None:
    path = tmp_path / "other"
    path.write_text(content + end, encoding="utf-8")
    with pytest.raises(InputError, match=r"line 1: found .*, expected a result with custom_id and response"):
        Journal(path)
    assert path.read_text(encoding="utf-8") == content + end


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("2", 2), ("0.5", 0.5), ("-1", 0), ("soon", None), ("nan", None), ("1e9", None), (None, None)],
)
def test_retry_after_may_be_a_number_of_seconds(header: str | None, seconds: float | None) -> None:
    assert _seconds(header) == seconds


def test_retry_after_may_be_a_date() -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    found = _seconds(date)
    assert found is not None
    assert 97 <= found <= 100


@pytest.mark.parametrize("key", ["a\n", " a", "ä"])
def test_a_key_that_is_invalid_in_a_header_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(InputError) as caught:
        checked_key(key)
    assert key.strip() not in str(caught.value).split()


def run(*arguments: object) -> int:
    return preprocess_dataset.main(["instructions", "send", *map(str, arguments)])


@pytest.mark.slow
def test_the_command_sends_a_folder_and_reports_the_results(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    lines = [json.dumps(request(f"r{number} ok")) for number in range(20)]
    (tmp_path / "requests-00000.jsonl").write_text("\n".join(lines), encoding="utf-8")
    out = tmp_path / "results.jsonl"
    assert run("--requests", tmp_path, "--results", out, "--base_url", server.url) == 0
    assert (
        "20 requests = 0 answered earlier + 20 answered now (0 with an error) + 0 unanswered" in capsys.readouterr().out
    )
    assert run("--requests", tmp_path, "--results", out, "--base_url", server.url) == 0
    assert "20 requests, all answered earlier" in capsys.readouterr().out
    assert sum(server.asked.values()) == 20


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (
            f"{REQUEST}\n{REQUEST}",
            [],
            "line 2: its custom_id 'a' also occurs in an earlier line",
        ),
        ('{"custom_id": "a"}', [], "line 1: has no body with model and messages"),
        ("nonsense", [], "line 1: has no custom_id, expected a request"),
        ("", [], "requests.jsonl contains no requests"),
        (REQUEST, ["--in_flight", "0"], "--in_flight is 0, expected at least 1"),
        (REQUEST, ["--base_url", "localhost:8000/v1"], "--base_url is localhost:8000/v1, expected a URL"),
        (REQUEST, ["--results", "."], "--results is ., which is a folder; expected a file, such as results.jsonl"),
    ],
)
def test_wrong_requests_are_refused_in_one_sentence_before_sending(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    arguments: list[str],
    words: str,
) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(content, encoding="utf-8")
    assert run("--requests", path, "--results", tmp_path / "r", "--base_url", server.url, *arguments) == 2
    assert words in capsys.readouterr().err
    assert not server.asked


def test_a_missing_key_for_a_hosted_endpoint_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    path = tmp_path / "requests.jsonl"
    path.write_text(json.dumps(request("a ok")), encoding="utf-8")
    assert run("--requests", path, "--results", tmp_path / "r") == 2
    assert "the environment variable OPENAI_API_KEY is not set" in capsys.readouterr().err


def test_a_missing_folder_of_requests_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--results", tmp_path / "r", "--base_url", "http://localhost:1/v1"]
    assert run("--requests", tmp_path / "nowhere", *arguments) == 2
    expected = "expected the output folder of `instructions requests`, or a file in it; check the path"
    assert f"--requests is {tmp_path / 'nowhere'}, which does not exist; {expected}" in (capsys.readouterr().err)
