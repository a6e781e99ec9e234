"""The command line of `preprocess_dataset instructions`: its three steps and their arguments."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any

DESCRIPTION = """Instruction data from the captions and boxes of COCO images, written by a text-only language model.
Three steps: `requests` makes the requests and says what they will cost, `send` gets them answered by any
OpenAI-compatible endpoint (or upload them to a provider's batch service), `read` turns the answers into LLaVA JSONL.
See docs/instructions.md."""
STEPS = ("requests",)


def declare(commands: Any) -> None:
    """Add the command to the others; a parsed step has its function in `step`."""
    command = commands.add_parser(
        "instructions",
        help="instruction data that a language model writes from captions and boxes (COCO)",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    steps = command.add_subparsers(dest="step_name", metavar="STEP", required=True)
    for name in STEPS:
        module = import_module(f"preprocess.converters.instruction_data.{name}_step")
        step = steps.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(step)
        step.set_defaults(step=module.run)
