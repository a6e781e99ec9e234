"""Run the trainer, log every batch, and kill the process at a given batch.

    python recorded_run.py LOG KILL_AFTER ARGUMENTS…

LOG gets a line for every micro-batch; the process kills itself (SIGKILL) when it is handed micro-batch KILL_AFTER.
"""

import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.batch_stream import BatchStream, MicroBatch
from trainer.run import main

_untouched = BatchStream.__iter__


def recorded(seen: Callable[[str], object]) -> Callable[[BatchStream], Iterator[MicroBatch]]:
    """`BatchStream.__iter__` that logs a digest of every micro-batch (texts and images) before yielding it."""

    def iterate(stream: BatchStream) -> Iterator[MicroBatch]:
        for batch in _untouched(stream):
            content = batch["text_input_ids"].numpy().tobytes() + batch["image_data"].numpy().tobytes()
            seen(hashlib.sha256(content).hexdigest())
            yield batch

    return iterate


if __name__ == "__main__":
    log, kill_after = Path(sys.argv[1]), int(sys.argv[2])
    lines: list[str] = []

    def note(digest: str) -> None:
        lines.append(digest)
        log.write_text("\n".join(lines), encoding="utf-8")
        if len(lines) == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    BatchStream.__iter__ = recorded(note)  # type: ignore[method-assign]
    sys.exit(main(sys.argv[3:]))
