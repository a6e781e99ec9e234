"""Time of a run by stage and by worker, from the receipts."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

# Stages in processing order; the keys are the stage names used in `task`.
STAGES = {
    "read": "read lines",
    "parse": "parse JSON",
    "validate": "validate, check image",
    "render": "render the template",
    "tokenize": "tokenize",
    "pack": "pack samples into rows",
    "assemble": "assemble rows",
    "compress": "compress",
    "write": "write, fsync",
    "verify": "read back",
}


@dataclass
class WorkerTotals:
    """Totals of one worker process."""

    tasks: int = 0
    records: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Records per second of work."""
        return self.records / max(self.seconds, 1e-9)


@dataclass
class Throughput:
    """Sums over receipts."""

    stages: Counter[str] = field(default_factory=Counter)
    workers: defaultdict[str, WorkerTotals] = field(default_factory=lambda: defaultdict(WorkerTotals))
    records: int = 0
    _spans: list[tuple[float, float]] = field(default_factory=list)

    def add(self, receipt: dict[str, Any]) -> None:
        """Add the receipt of a task."""
        statistics = receipt["report"]
        for stage, seconds in statistics["stages"].items():
            self.stages[stage] += seconds
        worker = self.workers[statistics["worker"]]
        worker.tasks += 1
        worker.records += receipt["read"]
        worker.seconds += receipt["seconds"]
        self.records += receipt["read"]
        self._spans.append((statistics["began"], statistics["began"] + receipt["seconds"]))

    def busiest(self, limit: int) -> list[tuple[str, WorkerTotals]]:
        """Return (process, totals) of the workers with the most records; with the host name if there are several."""
        hosts = {name.rpartition(":")[0] for name in self.workers}
        ranked = sorted(self.workers.items(), key=lambda item: (-item[1].records, item[0]))[:limit]
        return [(name if len(hosts) > 1 else name.rpartition(":")[2], totals) for name, totals in ranked]

    @property
    def busy_seconds(self) -> float:
        """Seconds during which at least one task was running; pauses between runs do not count."""
        busy, until = 0.0, float("-inf")
        for began, ended in sorted(self._spans):
            busy += max(0.0, ended - max(began, until))
            until = max(until, ended)
        return busy

    @property
    def rate(self) -> float:
        """Records per second of `busy_seconds`."""
        return self.records / max(self.busy_seconds, 1e-9)

    def stage_rows(self) -> list[tuple[str, float, float]]:
        """Return (description of the stage, seconds summed over all workers, share of the total)."""
        total = sum(self.stages.values()) or 1.0
        return [(words, self.stages[stage], self.stages[stage] / total) for stage, words in STAGES.items()]
