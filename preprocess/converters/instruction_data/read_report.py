"""Statistics of the records of each kind: rounds, and lengths of questions and answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from preprocess.converters.instruction_data.kinds import Kind
from preprocess.converters.instruction_data.parse import Round


@dataclass
class KindReport:
    """Statistics of one kind.

    Attributes:
        requests, records: their numbers.
        rounds: number of rounds → records.
        question_words, answer_words: number of words → questions or answers.
    """

    requests: int = 0
    records: int = 0
    rounds: Counter[int] = field(default_factory=Counter)
    question_words: Counter[int] = field(default_factory=Counter)
    answer_words: Counter[int] = field(default_factory=Counter)

    def add(self, rounds: Sequence[Round]) -> None:
        """Count a record."""
        self.records += 1
        self.rounds[len(rounds)] += 1
        self.question_words.update(len(each.question.split()) for each in rounds)
        self.answer_words.update(len(each.answer.split()) for each in rounds)

    def as_json(self) -> dict[str, object]:
        """The statistics as in `report.json`."""
        return {
            "requests": self.requests,
            "records": self.records,
            "rounds": {str(rounds): records for rounds, records in sorted(self.rounds.items())},
            "question_words": _range(self.question_words),
            "answer_words": _range(self.answer_words),
        }

    def summary(self, kind: Kind) -> str:
        """The statistics as one line for the terminal."""
        if not self.records:
            return f"{kind.value}: {self.requests:,} requests, no records"
        rounds = sum(self.rounds.elements()) / self.records
        question, answer = _range(self.question_words)["median"], _range(self.answer_words)["median"]
        return (
            f"{kind.value}: {self.requests:,} requests, {self.records:,} records; {rounds:.1f} rounds per record "
            f"(mean), {question} words per question and {answer} per answer (median)"
        )


def as_json(kinds: Mapping[Kind, KindReport], rejected: Mapping[str, int]) -> dict[str, object]:
    """The contents of `report.json`."""
    return {
        "kinds": {kind.value: report.as_json() for kind, report in kinds.items() if report.requests},
        "rejected": dict(rejected),
    }


def _range(words: Counter[int]) -> dict[str, int]:
    if not words:
        return {}
    listed = sorted(words.elements())
    return {"shortest": listed[0], "median": listed[len(listed) // 2], "longest": listed[-1]}
