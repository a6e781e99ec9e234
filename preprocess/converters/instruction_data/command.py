"""The command line of `preprocess_dataset instructions`: its steps and their arguments."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any

DESCRIPTION = """Instruction data from the captions and boxes of COCO images, written by a text-only language model.
`requests` makes the requests, ready to upload to a provider's batch service, and says what they will cost.
`send` sends them to an OpenAI-compatible endpoint. `read` makes conversations of the results."""
STEPS = ("requests", "send", "read")


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
