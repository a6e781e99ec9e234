"""Make the embedded example again, byte for byte; from the top of the checkout:

    python -m tests.tools.make_quickstart [--out DIR]

writes to `configs/quickstart` unless told otherwise. Nothing is downloaded and nothing is random: run it after a change
to a picture or a text, and commit what changed.
"""

import argparse
from pathlib import Path

from .example import DEFAULT_OUT, make_quickstart

parser = argparse.ArgumentParser(
    prog="python -m tests.tools.make_quickstart", description="Make the embedded example below configs/quickstart."
)
parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder to write to (default: %(default)s)")
make_quickstart(parser.parse_args().out)
