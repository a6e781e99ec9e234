"""Sends requests to an OpenAI-compatible endpoint (OpenAI, vLLM, transformers serve, ...), many at a time, and writes
the answers to --results as a batch service would, for `instructions read`. An answer is on the disk before it counts:
after a kill the same command sends what is not answered yet. Timeouts, cut connections and the statuses 408, 409, 429
and 5xx are tried again, as Retry-After says. Other errors are written as answers, and `read` rejects them.
The key is taken from the environment. It is not written anywhere.

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

HELP = "requests → results, by an OpenAI-compatible endpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this step."""
    parser.add_argument(
        "--requests", type=Path, nargs="+", required=True, help="the folder that `requests` wrote, or files of requests"
    )
    parser.add_argument("--results", type=Path, required=True, help="file for the answers, such as results.jsonl")
    parser.add_argument("--base_url", help="the endpoint, such as http://localhost:8000/v1 (default: OpenAI's)")
    parser.add_argument(
        "--key_variable", default="OPENAI_API_KEY", help="environment variable with the key (default: OPENAI_API_KEY)"
    )
    parser.add_argument("--in_flight", type=int, default=32, help="requests under way at a time (default: 32)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one answer (default: 300)")
    parser.add_argument("--retries", type=int, default=6, help="further tries of a request (default: 6)")


def run(arguments: argparse.Namespace) -> None:
    """Send the requests and say what became of them.

    Raises:
        InputError: arguments or inputs that cannot be.
        UnfinishedError: not every request was answered.
    """
    for name, least in (("in_flight", 1), ("retries", 0), ("timeout", 0.001)):
        if not getattr(arguments, name) >= least:
            raise InputError(f"--{name} is {getattr(arguments, name)}, expected at least {least}")
    if find_spec("openai") is None:
        raise InputError("the openai package is missing; pip install 'llava-hdf5[openai]'")
    endpoint = Endpoint(arguments.base_url, _key(arguments), arguments.in_flight, arguments.timeout, arguments.retries)
    if arguments.base_url is not None and not arguments.base_url.startswith(("http://", "https://")):
        raise InputError(f"--base_url is {arguments.base_url}, expected an address such as http://localhost:8000/v1")
    if arguments.results.is_dir():
        raise InputError(f"--results is {arguments.results}, a folder; give a file, such as results.jsonl in it")
    paths = _request_files(arguments.requests)
    ids = _check(paths)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    with Journal(arguments.results) as journal:
        left = ids - journal.done
        if not left:
            again = "to ask again, give another --results"
            print(f"{arguments.results}: {len(ids):,} requests, all answered earlier; {again}")
            return
        sent = send_all((one for one in _requests(paths) if one["custom_id"] in left), len(left), journal, endpoint)
    print(
        f"{arguments.results}: {len(ids):,} requests = {len(ids) - len(left):,} answered earlier + "
        f"{sent.answered:,} answered now ({sent.refused:,} with an error) + {sent.open:,} open"
    )
    if sent.open:
        raise UnfinishedError(f"{sent.open:,} requests got no answer, the last problem was: {sent.last_problem}")


def _key(arguments: argparse.Namespace) -> str:
    key = os.environ.get(arguments.key_variable, "")
    if not key and arguments.base_url is None:
        raise InputError(f"the environment has no {arguments.key_variable}; set it to your key, or give --base_url")
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
            paths.append(file(path, "--requests", "the folder that `instructions requests` wrote, or a file in it"))
    return paths


def _check(paths: list[Path]) -> set[str]:
    """Read all requests before one is sent; their ids."""
    seen: set[str] = set()
    for path in paths:
        for source in json_lines(path):
            request, where = source.value, f"{path}, {source.position}"
            if not isinstance(request, dict) or not isinstance(request.get("custom_id"), str):
                raise InputError(f"{where}: is not a request with a custom_id; give files that `requests` wrote")
            body = request.get("body")
            if not isinstance(body, dict) or not {"model", "messages"} <= body.keys():
                raise InputError(f"{where}: has no body with model and messages; give files that `requests` wrote")
            if request["custom_id"] in seen:
                raise InputError(f"{where}: its custom_id stands in an earlier line; send each request once")
            seen.add(request["custom_id"])
    if not seen:
        raise InputError(f"{paths[0]} holds no request; give files that `requests` wrote")
    return seen


def _requests(paths: list[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        for source in json_lines(path):
            yield source.value
