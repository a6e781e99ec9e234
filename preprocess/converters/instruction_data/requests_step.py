"""Reads COCO's captions_*.json and instances_*.json.
Writes requests-00000.jsonl, ... into --output_dir: lines for OpenAI's Batch API, ready for
upload, at most 50,000 and 200 MB a file; images.jsonl, which image each is about; requests.rejects.jsonl, images that
no request is made of (no caption, a box that is none, an image that one of the files lacks); and requests.receipt.
Says how many tokens they are likely to take, and with --price_per_million what that costs. Nothing is sent."""

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

HELP = "captions and boxes → requests, with an estimate of their cost"
VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this step."""
    parser.add_argument("--captions", type=Path, required=True, help="COCO's captions_*.json")
    parser.add_argument("--instances", type=Path, help="COCO's instances_*.json; not needed for conversations alone")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the files; made if missing")
    names = [kind.value for kind in Kind]
    parser.add_argument("--kinds", nargs="+", choices=names, default=names, help="what to ask for (default: all)")
    parser.add_argument("--model", type=_name, required=True, help="the model's name at the endpoint")
    parser.add_argument("--prompts", type=Path, help="folder with your own conversation.yaml, detail.yaml, ...")
    parser.add_argument("--limit", type=_above_zero, help="take this many images, drawn by --seed and their ids")
    parser.add_argument("--seed", type=int, default=0, help="of the draw by --limit (default: 0)")
    parser.add_argument(
        "--max_tokens", type=_above_zero, default=1024, help="the most tokens of an answer (default: 1024)"
    )
    parser.add_argument(
        "--body", default="{}", help="further fields of each request, as JSON: '{\"temperature\": 0.7}'"
    )
    parser.add_argument(
        "--price_per_million", type=_price, nargs=2, metavar=("IN", "OUT"), help="price of a million tokens"
    )
    parser.add_argument("--overwrite", action="store_true", help="write the files again that are there already")


def run(arguments: argparse.Namespace) -> None:
    """Write the requests and say what they will take.

    Raises:
        InputError: arguments or inputs that cannot be.
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
        raise InputError(f"{results[0]} holds answers to the requests that would be replaced; use another --output_dir")
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
    if written.elsewhere:
        print(f"  not used: {written.elsewhere:,} annotations of images that {arguments.captions.name} does not list")
    price = tuple(arguments.price_per_million) if arguments.price_per_million else None
    for kind, tokens in written.tokens.items():
        print(f"  {kind.value}: {tokens.requests:,} requests, about {tokens.sent:,} tokens sent")
    for sentence in sum(written.tokens.values(), Estimate()).sentences(price, written.counts.written):
        print(sentence)


def _counted(counts: Counts, folder: Path) -> str:
    rejected = sum(counts.rejected.values())
    return f"{folder}: {counts.read:,} images read = {counts.written:,} written + {rejected:,} rejected"


def _plan(arguments: argparse.Namespace) -> tuple[RequestPlan, tuple[Path, ...]]:
    kinds = [kind for kind in Kind if kind.value in arguments.kinds]
    captions = file(arguments.captions, "--captions")
    if arguments.instances is None and any(kind.sees_boxes for kind in kinds):
        raise InputError("--instances is missing; detail and reasoning need the boxes, give COCO's instances_*.json")
    if arguments.instances is not None and not any(kind.sees_boxes for kind in kinds):
        raise InputError("--instances is given, and conversations have no boxes; leave it out, or ask for other kinds")
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
            raise InputError(f"--body sets {taken!r}, which the other arguments decide; take it out")
    return body


def _above_zero(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _price(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no price")
    return value


def _name(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text
