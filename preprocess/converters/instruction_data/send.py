"""Send requests concurrently to an OpenAI-compatible endpoint; each is answered once or counted as unanswered.

Which errors are retried, and the waiting times, follow the `openai` package (src/openai/_base_client.py of
openai/openai-python). Its own retries are disabled, because a Retry-After must delay all requests.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import orjson
from tqdm.auto import tqdm

from preprocess.converters.core.errors import InputError, UnfinishedError
from preprocess.converters.instruction_data.journal import Journal
from preprocess.rejects import shorten

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_RETRIED = {408, 409, 429}  # and 500 to 599
# The key or the address is wrong, so all other requests would fail too.
_FATAL = {401, 403, 404}
# The run ends if at least this many requests, and at least as many as are in flight, failed before any was answered.
_FAILED_AT_START = 8
# In seconds.
_LONGEST_WAIT = 60.0
_LONGEST_RETRY_AFTER = 3600.0


@dataclass(frozen=True)
class Endpoint:
    """The endpoint, and how requests are sent.

    Attributes:
        base_url: such as http://localhost:8000/v1; None for the default of the `openai` package.
        key: the API key; "" if the endpoint needs none. It is never written or shown.
        in_flight: number of concurrent requests.
        timeout: seconds for one answer, from sending the request to the last byte of the answer.
        retries: number of retries of a request.
        first_wait: seconds before the first retry, doubled for each further one; Retry-After takes precedence.
    """

    base_url: str | None
    key: str = field(repr=False)
    in_flight: int
    timeout: float
    retries: int
    first_wait: float = 0.5


@dataclass
class Sent:
    """Counts of the requests of one run; `refused` are answers with an error that is not retried."""

    answered: int = 0
    refused: int = 0
    unanswered: int = 0
    last_problem: str = ""


class _Retry(Exception):
    """The request failed, but a retry may succeed; `wait` is the Retry-After of the answer in seconds."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


def send_all(requests: Iterator[dict[str, Any]], count: int, journal: Journal, endpoint: Endpoint) -> Sent:
    """Send requests, and write a line for each answer.

    Args:
        requests: lines of the Batch API with `custom_id` and `body`.
        count: number of requests, for the progress bar.
        journal: the results file; an answer counts once its line is on the disk.
        endpoint: the endpoint.

    Raises:
        UnfinishedError: the endpoint refused the key or the address, or all retries of the first requests failed.
        OSError: the journal cannot be written.
    """
    return asyncio.run(_Sending(journal, endpoint, count).run(requests))


class _Sending:
    def __init__(self, journal: Journal, endpoint: Endpoint, count: int) -> None:
        self._journal, self._endpoint = journal, endpoint
        self._sent = Sent()
        self._not_before = 0.0
        self._lines: asyncio.Queue[tuple[bytes, asyncio.Future[None]]] = asyncio.Queue()
        self._progress = tqdm(total=count, unit=" requests", smoothing=0.05)

    async def run(self, requests: Iterator[dict[str, Any]]) -> Sent:
        from openai import AsyncOpenAI

        endpoint = self._endpoint
        # One connection per request, so that extra bytes from a server are never read as the answer to another request.
        client = AsyncOpenAI(
            api_key=endpoint.key or "none",  # the client requires a key
            base_url=endpoint.base_url,
            max_retries=0,
            timeout=None,  # `_ask` limits the time of the whole answer
            default_headers={"Connection": "close"},
        )
        async with client:
            writer = asyncio.create_task(self._write())
            workers = [asyncio.create_task(self._work(client, requests)) for _ in range(endpoint.in_flight)]
            work = asyncio.gather(*workers)
            try:
                await asyncio.wait((writer, work), return_when=asyncio.FIRST_COMPLETED)
                (writer if writer.done() else work).result()  # the writer ends only with an error
            finally:
                pending = {*workers, writer}
                while pending:  # wait_for of Python before 3.12 may lose a cancellation (python/cpython#86296)
                    for task in pending:
                        task.cancel()
                    _, pending = await asyncio.wait(pending, timeout=0.1)
                # A task whose exception is never retrieved logs a traceback when it is freed.
                await asyncio.gather(work, writer, return_exceptions=True)
                self._progress.close()
        return self._sent

    async def _work(self, client: AsyncOpenAI, requests: Iterator[dict[str, Any]]) -> None:
        for request in requests:
            for attempt in range(self._endpoint.retries + 1):
                while (wait := self._not_before - time.monotonic()) > 0:  # another answer may extend it meanwhile
                    await asyncio.sleep(wait)
                try:
                    line = await self._ask(client, request)
                except _Retry as failed:
                    self._sent.last_problem = str(failed)
                    if failed.wait is not None:
                        self._not_before = max(self._not_before, time.monotonic() + failed.wait)
                    elif attempt < self._endpoint.retries:
                        wait = min(_LONGEST_WAIT, self._endpoint.first_wait * 2**attempt)
                        await asyncio.sleep(wait * random.uniform(0.75, 1.0))
                    continue
                await self._record(line)
                break
            else:
                self._sent.unanswered += 1
                least = max(_FAILED_AT_START, self._endpoint.in_flight)
                if self._sent.unanswered >= least and not self._sent.answered:
                    raise UnfinishedError(
                        f"no request was answered; the last error was: {self._sent.last_problem}; check --base_url and "
                        "that the server is running"
                    )

    async def _ask(self, client: AsyncOpenAI, request: dict[str, Any]) -> bytes:
        """Send one request; return the line for its answer.

        Raises:
            _Retry: a retry may succeed.
            UnfinishedError: the endpoint would refuse all other requests too.
        """
        import openai

        body = request["body"]
        create = client.chat.completions.with_raw_response.create
        request_sent = create(model=body["model"], messages=body["messages"], extra_body=body)
        try:
            response = (await asyncio.wait_for(request_sent, self._endpoint.timeout)).http_response
            answered = _json(response.content)
            if response.status_code != 200 or not isinstance(answered, dict):
                found = shorten(self._without_key(response.text))
                raise _Retry(f"the answer has status {response.status_code} and is {found}, expected a JSON object")
        except asyncio.TimeoutError:
            raise _Retry(f"no answer in {self._endpoint.timeout:g} seconds") from None
        except openai.APIStatusError as error:
            response, status = error.response, error.status_code
            problem = f"status {status}: {shorten(self._without_key(response.text), 200)}"
            if status in _FATAL:
                raise UnfinishedError(
                    f"the endpoint refused a request with {problem}; check the key, --base_url and the model"
                ) from None
            if status in _RETRIED or status >= 500:
                raise _Retry(problem, _seconds(response.headers.get("retry-after"))) from None
            self._sent.refused += 1
            text = self._without_key(response.text)  # an error message may contain the key
            answered = _json(text.encode()) or {"error": {"message": text}}
        except openai.APIConnectionError as error:
            problem = self._without_key(str(error.__cause__ or error))
            raise _Retry(f"{type(error).__name__}: {problem}") from None
        answer = {
            "status_code": response.status_code,
            "request_id": response.headers.get("x-request-id"),
            "body": answered,
        }
        return orjson.dumps({"custom_id": request["custom_id"], "response": answer, "error": None})

    async def _record(self, line: bytes) -> None:
        """Write a line and wait until it is on the disk."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._lines.put((line, written))
        await written
        self._sent.answered += 1
        self._progress.update()

    async def _write(self) -> None:
        """Write all waiting lines, with one sync for all of them."""
        while True:
            waiting = [await self._lines.get()]
            while not self._lines.empty():
                waiting.append(self._lines.get_nowait())
            await asyncio.to_thread(self._journal.append, [line for line, _ in waiting])
            for _, written in waiting:
                if not written.done():
                    written.set_result(None)

    def _without_key(self, text: str) -> str:
        return text.replace(self._endpoint.key, "***") if self._endpoint.key else text


def _json(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None


def _seconds(header: str | None) -> float | None:
    """The seconds of a Retry-After header, a number or a date (RFC 9110, section 10.2.3); None if it is invalid."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds < _LONGEST_RETRY_AFTER else None


def checked_key(key: str) -> str:
    """The key, if it is valid in an HTTP header.

    Raises:
        InputError: it is not valid; the message does not show it.
    """
    if not key.isascii() or not key.isprintable() or key != key.strip():
        raise InputError(
            "the API key contains surrounding whitespace, or characters that are not allowed in an HTTP header; "
            "correct the environment variable"
        )
    return key
