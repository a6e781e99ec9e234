"""Test a chat template in a separate process with limits on time and memory, while a run is planned.

During the run, `sandbox.py` bounds rendering by counting steps only. This check finds what counting misses, such as a
search that never ends, before anything is written.
"""

from __future__ import annotations

import datetime
import resource
import subprocess
import sys
from collections.abc import Iterable

import orjson

from preprocess.templates.jinja.analysis import analyze, special_pattern
from preprocess.templates.jinja.sandbox import SandboxedTemplate, TemplateFault
from preprocess.templates.jinja.source import TemplateSource

_SECONDS = 30
_MEMORY = 2 << 30


def check_in_child(source: TemplateSource, added: Iterable[str], date: datetime.date) -> None:
    """Test a template.

    Args:
        source: the template.
        added: the tokenizer's added tokens.
        date: the date for `strftime_now`.

    Raises:
        TemplateFault: the template cannot be used, or does not terminate.
    """
    job = orjson.dumps({"text": source.text, "variables": source.variables, "added": list(added), "date": date})
    try:
        child = subprocess.run(
            [sys.executable, "-m", "preprocess.templates.jinja.check"], input=job, capture_output=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise TemplateFault(f"it does not terminate within {_SECONDS} seconds") from None
    if child.returncode:
        raise TemplateFault(
            f"it crashes the process that tests it (exit code {child.returncode}), possibly for lack of memory"
        )
    fault: str | None = orjson.loads(child.stdout)
    if fault is not None:
        raise TemplateFault(fault)


def main() -> None:
    """Read a job from standard input and write the fault, or null, to standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    job = orjson.loads(sys.stdin.buffer.read())
    fault = None
    try:
        template = SandboxedTemplate(job["text"], job["variables"], datetime.date.fromisoformat(job["date"]))
        analyze(template, special_pattern(dict.fromkeys(job["added"])))
    except TemplateFault as error:
        fault = str(error)
    sys.stdout.buffer.write(orjson.dumps(fault))


if __name__ == "__main__":
    main()
