"""Requests → an OpenAI-compatible endpoint → results, many at a time; every request is answered once or named as open.

What is retried, and how long to wait, follows the practice of the `openai` package (src/openai/_base_client.py of
openai/openai-python), whose own retries are switched off: a wait that one answer asks for holds back all requests.
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
# The key or the address is wrong, and no request will fare better.
_HOPELESS = {401, 403, 404}
# So many requests without an answer, and none with one, end the run; and not fewer than are in flight.
_HOPELESS_START = 8
_LONGEST_WAIT = 60.0
_LONGEST_ASKED = 3600.0


@dataclass(frozen=True)
class Endpoint:
    """Where requests go, and how.

    Attributes:
        base_url: such as http://localhost:8000/v1; None is that of the `openai` package.
        key: what the endpoint knows the user by; "" where it needs none. It is never written or shown.
        in_flight: requests under way at a time.
        timeout: seconds for one answer, from the sending of the request to its last byte.
        retries: further tries of a request.
        first_wait: seconds before the first of them, doubled for each further one; Retry-After goes before.
    """

    base_url: str | None
    key: str = field(repr=False)
    in_flight: int
    timeout: float
    retries: int
    first_wait: float = 0.5


@dataclass
class Sent:
    """What became of the requests of one run."""

    answered: int = 0
    refused: int = 0  # answered with an error that further tries would not change
    open: int = 0
    last_problem: str = ""


class _Retry(Exception):
    """This try failed; another may not."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


def send_all(requests: Iterator[dict[str, Any]], count: int, journal: Journal, endpoint: Endpoint) -> Sent:
    """Send requests, and write a line for each answer.

    Args:
        requests: lines of the Batch API: `custom_id` and `body`.
        count: how many there are, for the progress bar.
        journal: where lines go; an answer counts once its line is on the disk.
        endpoint: where requests go.

    Raises:
        UnfinishedError: the key or the address is refused, or nothing was answered in all tries of the first requests.
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
        # With a connection each, bytes that a server sends too many cannot become the answer of the next request.
        client = AsyncOpenAI(
            api_key=endpoint.key or "none",  # the client wants some text
            base_url=endpoint.base_url,
            max_retries=0,
            timeout=None,  # that of the endpoint is for a whole answer
            default_headers={"Connection": "close"},
        )
        async with client:
            writer = asyncio.create_task(self._write())
            workers = [asyncio.create_task(self._work(client, requests)) for _ in range(endpoint.in_flight)]
            work = asyncio.gather(*workers)
            try:
                await asyncio.wait((writer, work), return_when=asyncio.FIRST_COMPLETED)
                (writer if writer.done() else work).result()  # the writer ends by itself only where it cannot write
            finally:
                pending = {*workers, writer}
                while pending:  # wait_for of Python before 3.12 may lose a cancellation (python/cpython#86296)
                    for task in pending:
                        task.cancel()
                    _, pending = await asyncio.wait(pending, timeout=0.1)
                # What is not asked for its exception logs a traceback when it is freed.
                await asyncio.gather(work, writer, return_exceptions=True)
                self._progress.close()
        return self._sent

    async def _work(self, client: AsyncOpenAI, requests: Iterator[dict[str, Any]]) -> None:
        for request in requests:
            for attempt in range(self._endpoint.retries + 1):
                while (wait := self._not_before - time.monotonic()) > 0:  # an answer may put it off while this sleeps
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
                await self._note(line)
                break
            else:
                self._sent.open += 1
                if self._sent.open >= max(_HOPELESS_START, self._endpoint.in_flight) and not self._sent.answered:
                    raise UnfinishedError(f"nothing was answered, the last problem was: {self._sent.last_problem}")

    async def _ask(self, client: AsyncOpenAI, request: dict[str, Any]) -> bytes:
        """The line for one request.

        Raises:
            _Retry: it may be answered later.
            UnfinishedError: no request will be answered.
        """
        import openai

        body = request["body"]
        create = client.chat.completions.with_raw_response.create
        asked = create(model=body["model"], messages=body["messages"], extra_body=body)
        try:
            response = (await asyncio.wait_for(asked, self._endpoint.timeout)).http_response
            answered = _json(response.content)
            if response.status_code != 200 or not isinstance(answered, dict):
                found = shorten(self._without_key(response.text))
                raise _Retry(f"status {response.status_code} with {found}, expected a JSON object")
        except asyncio.TimeoutError:
            raise _Retry(f"no answer in {self._endpoint.timeout:g} seconds") from None
        except openai.APIStatusError as error:
            response, status = error.response, error.status_code
            problem = f"status {status}: {shorten(self._without_key(response.text), 200)}"
            if status in _HOPELESS:
                raise UnfinishedError(f"the endpoint refuses: {problem}; check the key and --base_url") from None
            if status in _RETRIED or status >= 500:
                raise _Retry(problem, _seconds(response.headers.get("retry-after"))) from None
            self._sent.refused += 1
            text = self._without_key(response.text)  # an error may quote the key, an answer of the model does not
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

    async def _note(self, line: bytes) -> None:
        """Wait until a line is on the disk."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._lines.put((line, written))
        await written
        self._sent.answered += 1
        self._progress.update()

    async def _write(self) -> None:
        """Write what is waiting, with one sync for all of it."""
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


def _seconds(asked: str | None) -> float | None:
    """What a Retry-After header asks for, a number or a date (RFC 9110, section 10.2.3); None for anything else."""
    if asked is None:
        return None
    try:
        seconds = float(asked)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(asked).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds < _LONGEST_ASKED else None


def checked_key(key: str) -> str:
    """A key that an HTTP header can hold.

    Raises:
        InputError: it cannot; the message does not show it.
    """
    if not key.isascii() or not key.isprintable() or key != key.strip():
        raise InputError("the key in the environment holds characters that no HTTP header can; correct it")
    return key
