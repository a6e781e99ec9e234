"""Rebuild the embedded example byte for byte; from the root of the checkout:

    python -m tests.tools.make_quickstart [--out DIR]

writes to `configs/quickstart` by default. Nothing is downloaded and the output is deterministic: run it after a change
to an image or a text, and commit the result.
"""

import argparse
from pathlib import Path

from .example import DEFAULT_OUT, make_quickstart

parser = argparse.ArgumentParser(
    prog="python -m tests.tools.make_quickstart", description="Make the embedded example below configs/quickstart."
)
parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder to write to (default: %(default)s)")
make_quickstart(parser.parse_args().out)
