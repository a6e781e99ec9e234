"""Sends requests concurrently to an OpenAI-compatible endpoint (OpenAI, vLLM, transformers serve, ...).

Reads the files written by `requests`.
Writes the answers to --results, in the format of a batch service, for `read`. Each answer is flushed to the disk;
rerunning an interrupted command sends only the requests that have no answer.
Timeouts, connection errors and the statuses 408, 409, 429 and 5xx are retried, after the time of Retry-After if given.
The statuses 401, 403 and 404 end the command. Other errors are written as answers, which `read` rejects.
The API key is read from the environment; it is never written or shown.

Needs the openai package: pip install 'llava-hdf5[openai]'"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from preprocess.converters.core.errors import InputError, UnfinishedError
from preprocess.converters.core.sources import file, json_lines, nothing_found
from preprocess.converters.instruction_data import layout
from preprocess.converters.instruction_data.journal import Journal
from preprocess.converters.instruction_data.send import Endpoint, checked_key, send_all

HELP = "send requests to an OpenAI-compatible endpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this step."""
    parser.add_argument(
        "--requests", type=Path, nargs="+", required=True, help="output folder of `requests`, or files of requests"
    )
    parser.add_argument(
        "--results", type=Path, required=True, help="output file for the answers, such as results.jsonl"
    )
    parser.add_argument("--base_url", help="URL of the endpoint, such as http://localhost:8000/v1 (default: OpenAI's)")
    parser.add_argument(
        "--key_variable",
        default="OPENAI_API_KEY",
        help="environment variable with the API key (default: OPENAI_API_KEY); may be unset with --base_url",
    )
    parser.add_argument("--in_flight", type=int, default=32, help="number of concurrent requests (default: 32)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one answer (default: 300)")
    parser.add_argument("--retries", type=int, default=6, help="retries of a request (default: 6)")


def run(arguments: argparse.Namespace) -> None:
    """Send the requests that have no answer yet, and print the counts.

    Raises:
        InputError: invalid arguments or inputs.
        UnfinishedError: not every request was answered.
    """
    for name, least in (("in_flight", 1), ("retries", 0), ("timeout", 0.001)):
        if not getattr(arguments, name) >= least:
            raise InputError(f"--{name} is {getattr(arguments, name)}, expected at least {least}")
    if find_spec("openai") is None:
        raise InputError("sending needs the openai package; install it with pip install 'llava-hdf5[openai]'")
    endpoint = Endpoint(arguments.base_url, _key(arguments), arguments.in_flight, arguments.timeout, arguments.retries)
    if arguments.base_url is not None and not arguments.base_url.startswith(("http://", "https://")):
        raise InputError(f"--base_url is {arguments.base_url}, expected a URL such as http://localhost:8000/v1")
    if arguments.results.is_dir():
        raise InputError(
            f"--results is {arguments.results}, which is a folder; expected a file, such as "
            f"{arguments.results / 'results.jsonl'}"
        )
    paths = _request_files(arguments.requests)
    ids = _check(paths)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    with Journal(arguments.results) as journal:
        left = ids - journal.done
        if not left:
            again = "to send them again, give another --results"
            print(f"{arguments.results}: {len(ids):,} requests, all answered earlier; {again}")
            return
        sent = send_all((one for one in _requests(paths) if one["custom_id"] in left), len(left), journal, endpoint)
    print(
        f"{arguments.results}: {len(ids):,} requests = {len(ids) - len(left):,} answered earlier + "
        f"{sent.answered:,} answered now ({sent.refused:,} with an error) + {sent.unanswered:,} unanswered"
    )
    if sent.unanswered:
        raise UnfinishedError(
            f"{sent.unanswered:,} requests were not answered; the last error was: {sent.last_problem}"
        )


def _key(arguments: argparse.Namespace) -> str:
    key = os.environ.get(arguments.key_variable, "")
    if not key and arguments.base_url is None:
        raise InputError(
            f"the environment variable {arguments.key_variable} is not set; set it to your API key, or give the "
            "--base_url of a server without a key"
        )
    return checked_key(key)


def _request_files(given: list[Path]) -> list[Path]:
    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            found = sorted(path.glob(layout.REQUESTS))
            if not found:
                raise nothing_found("--requests", path, layout.REQUESTS)
            paths += found
        else:
            paths.append(file(path, "--requests", "the output folder of `instructions requests`, or a file in it"))
    return paths


def _check(paths: list[Path]) -> set[str]:
    """Check all requests before any is sent; return their ids."""
    seen: set[str] = set()
    give = "give files that `instructions requests` wrote"
    for path in paths:
        for source in json_lines(path):
            request, where = source.value, f"{path}, {source.position}"
            if not isinstance(request, dict) or not isinstance(request.get("custom_id"), str):
                raise InputError(f"{where}: has no custom_id, expected a request; {give}")
            body = request.get("body")
            if not isinstance(body, dict) or not {"model", "messages"} <= body.keys():
                raise InputError(f"{where}: has no body with model and messages, expected a request; {give}")
            if request["custom_id"] in seen:
                raise InputError(
                    f"{where}: its custom_id {request['custom_id']!r} also occurs in an earlier line; "
                    "give each request once"
                )
            seen.add(request["custom_id"])
    if not seen:
        raise InputError(f"{paths[0]} contains no requests; {give}")
    return seen


def _requests(paths: list[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        for source in json_lines(path):
            yield source.value
