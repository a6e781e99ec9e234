"""The command line of `preprocess_dataset instructions`: its steps and their arguments."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any

DESCRIPTION = """Instruction data written by a text-only language model from the captions and boxes of COCO images.
`requests` writes the requests, in the format of a provider's batch service, and estimates their cost.
`send` sends them to an OpenAI-compatible endpoint. `read` converts the results to conversations.
'preprocess_dataset instructions STEP -h' describes what a step reads and writes."""
STEPS = ("requests", "send", "read")


def declare(commands: Any) -> None:
    """Declare the command and its steps; the parsed arguments have the function of the step in `step`."""
    command = commands.add_parser(
        "instructions",
        help="instruction data written by a language model from COCO's captions and boxes",
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
