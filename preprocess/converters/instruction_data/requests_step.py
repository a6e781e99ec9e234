"""Converts captions and boxes to requests, and estimates their cost. Nothing is sent.

Reads COCO's captions_*.json and instances_*.json.
Writes to --output_dir:
  requests-00000.jsonl, ...  lines for OpenAI's Batch API, ready for upload; at most 50,000 and 200 MB per file
  images.jsonl               the image of each request
  requests.rejects.jsonl     rejected images: without a caption, with an invalid box, not listed in --instances, ...
  requests.receipt           the inputs and arguments
Prints an estimate of the tokens, and with --price_per_million of the cost."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from preprocess.converters.core.errors import InputError
from preprocess.converters.core.receipt import Counts
from preprocess.converters.core.sources import file
from preprocess.converters.instruction_data import layout
from preprocess.converters.instruction_data.cost import Estimate
from preprocess.converters.instruction_data.file_set import FileSet, LineFile
from preprocess.converters.instruction_data.kinds import Kind
from preprocess.converters.instruction_data.prompts import load_prompt, prompt_files
from preprocess.converters.instruction_data.requests import RequestPlan, Written, write_requests

HELP = "convert captions and boxes to requests, and estimate their cost"
VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this step."""
    parser.add_argument("--captions", type=Path, required=True, help="COCO's captions_*.json")
    parser.add_argument(
        "--instances", type=Path, help="COCO's instances_*.json; required unless --kinds is conversation"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="output folder; created if missing")
    names = [kind.value for kind in Kind]
    parser.add_argument("--kinds", nargs="+", choices=names, default=names, help="kinds of requests (default: all)")
    parser.add_argument("--model", type=_non_empty, required=True, help="name of the model at the endpoint")
    parser.add_argument(
        "--prompts",
        type=Path,
        help="folder with conversation.yaml, detail.yaml and reasoning.yaml (default: those of configs/instructions)",
    )
    parser.add_argument("--limit", type=_positive, help="number of images, sampled with --seed (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample of --limit (default: 0)")
    parser.add_argument(
        "--max_tokens", type=_positive, default=1024, help="maximum number of tokens of an answer (default: 1024)"
    )
    parser.add_argument(
        "--body", default="{}", help="further fields of each request, as JSON, such as '{\"temperature\": 0.7}'"
    )
    parser.add_argument(
        "--price_per_million",
        type=_price,
        nargs=2,
        metavar=("IN", "OUT"),
        help="prices of a million input tokens and of a million output tokens",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def run(arguments: argparse.Namespace) -> None:
    """Write the requests and print the estimate.

    Raises:
        InputError: invalid arguments or inputs.
    """
    plan, inputs = _plan(arguments)
    files = FileSet(
        folder=arguments.output_dir,
        step="requests",
        patterns=(layout.REQUESTS, layout.IMAGES, layout.REQUEST_REJECTS),
        settings={
            "step_version": VERSION,
            "kinds": " ".join(kind.value for kind in plan.prompts),
            "model": plan.model,
            "max_tokens": plan.max_tokens,
            "body": orjson.dumps(plan.extra_body, option=orjson.OPT_SORT_KEYS).decode(),
            "limit": plan.limit or 0,
            "seed": plan.seed,
            **{f"prompt_{kind.value}": prompt.digest() for kind, prompt in plan.prompts.items()},
        },
        inputs=inputs,
    )
    if not arguments.overwrite and (counts := files.finished()) is not None:
        print(f"finished earlier, nothing to do: {_counted(counts, arguments.output_dir)}")
        return
    if results := sorted(arguments.output_dir.glob(layout.RESULTS)):
        raise InputError(
            f"{results[0]} contains answers to the requests that would be replaced; give another --output_dir"
        )
    outcome: list[Written] = []

    def fill(open_file: Callable[[str], LineFile]) -> Counts:
        outcome.append(write_requests(plan, open_file))
        return outcome[0].counts

    files.write(fill)
    _report(outcome[0], arguments)


def _report(written: Written, arguments: argparse.Namespace) -> None:
    print(f"wrote {_counted(written.counts, arguments.output_dir)}")
    if written.counts.rejected:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in written.counts.rejected.items())
        print(f"  rejected: {reasons}; listed in {arguments.output_dir / layout.REQUEST_REJECTS}")
    if written.unlisted:
        print(f"  not used: {written.unlisted:,} annotations of images that {arguments.captions.name} does not list")
    price = tuple(arguments.price_per_million) if arguments.price_per_million else None
    for kind, tokens in written.tokens.items():
        print(f"  {kind.value}: {tokens.requests:,} requests, about {tokens.input_tokens:,} input tokens")
    for line in sum(written.tokens.values(), Estimate()).lines(price, written.counts.written):
        print(line)


def _counted(counts: Counts, folder: Path) -> str:
    rejected = sum(counts.rejected.values())
    return f"{folder}: {counts.read:,} images read = {counts.written:,} written + {rejected:,} rejected"


def _plan(arguments: argparse.Namespace) -> tuple[RequestPlan, tuple[Path, ...]]:
    kinds = [kind for kind in Kind if kind.value in arguments.kinds]
    captions = file(arguments.captions, "--captions")
    if arguments.instances is None and any(kind.uses_boxes for kind in kinds):
        raise InputError(
            "--instances is missing, but the kinds detail and reasoning use boxes; give COCO's instances_*.json, or "
            "--kinds conversation"
        )
    if arguments.instances is not None and not any(kind.uses_boxes for kind in kinds):
        raise InputError(
            "--instances is given, but the kind conversation does not use boxes; remove it, or give other --kinds"
        )
    instances = None if arguments.instances is None else file(arguments.instances, "--instances")
    prompts = prompt_files(arguments.prompts)
    plan = RequestPlan(
        captions=captions,
        instances=instances,
        prompts={kind: load_prompt(prompts[kind], kind) for kind in kinds},
        model=arguments.model,
        max_tokens=arguments.max_tokens,
        extra_body=_extra_body(arguments.body),
        limit=arguments.limit,
        seed=arguments.seed,
    )
    return plan, (captions,) if instances is None else (captions, instances)


def _extra_body(text: str) -> dict[str, Any]:
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise InputError(f"--body is {text!r}, expected a JSON object such as '{{\"temperature\": 0.7}}'")
    for taken in ("model", "messages", "max_completion_tokens", "max_tokens", "n", "stream"):
        if taken in body:
            raise InputError(f"--body sets {taken!r}, which the command sets itself; remove it")
    return body


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _price(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a price, expected a number of at least 0")
    return value


def _non_empty(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty")
    return text
