"""What an answer file gave: records, rounds and lengths of each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from preprocess.converters.instruction_data.kinds import Kind
from preprocess.converters.instruction_data.parse import Round


@dataclass
class KindReport:
    """One kind: requests, records, how many rounds records have, and words of questions and answers."""

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
        """For the report's file."""
        return {
            "requests": self.requests,
            "records": self.records,
            "rounds": {str(rounds): records for rounds, records in sorted(self.rounds.items())},
            "question_words": _spread(self.question_words),
            "answer_words": _spread(self.answer_words),
        }

    def sentence(self, kind: Kind) -> str:
        """For the screen."""
        if not self.records:
            return f"{kind.value}: {self.requests:,} requests, no records"
        rounds = sum(self.rounds.elements()) / self.records
        question, answer = _spread(self.question_words)["median"], _spread(self.answer_words)["median"]
        return (
            f"{kind.value}: {self.requests:,} requests, {self.records:,} records with {rounds:.1f} rounds on average; "
            f"a question has {question} words, an answer {answer} (median)"
        )


def as_json(kinds: Mapping[Kind, KindReport], rejected: Mapping[str, int]) -> dict[str, object]:
    """The whole report."""
    return {
        "kinds": {kind.value: report.as_json() for kind, report in kinds.items() if report.requests},
        "rejected": dict(rejected),
    }


def _spread(words: Counter[int]) -> dict[str, int]:
    if not words:
        return {}
    listed = sorted(words.elements())
    return {"shortest": listed[0], "median": listed[len(listed) // 2], "longest": listed[-1]}
