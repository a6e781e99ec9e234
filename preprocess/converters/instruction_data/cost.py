"""An estimate of tokens and cost, made before anything is sent."""

from __future__ import annotations

import re
from dataclasses import dataclass

from preprocess.converters.instruction_data.prompts import Message, Prompt

# One token each, no vocabulary is loaded to count: an English word, a digit, a sign, a letter of another alphabet.
_PIECE = re.compile(r"[A-Za-z]+|\S")
# Role and end of turn, in the usual chat templates.
TOKENS_PER_MESSAGE = 4


@dataclass(frozen=True)
class Estimate:
    """Tokens of some requests: those sent, those expected back, and the most that can come back."""

    requests: int = 0
    sent: int = 0
    expected: int = 0
    most: int = 0

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.requests + other.requests,
            self.sent + other.sent,
            self.expected + other.expected,
            self.most + other.most,
        )

    def sentences(self, price: tuple[float, float] | None, images: int) -> list[str]:
        """For the person who decides whether to send them.

        Args:
            price: of a million tokens, in and out.
            images: that the requests are about.
        """
        lines = [
            f"estimate: {self.requests:,} requests, about {self.sent:,} tokens sent and {self.expected:,} returned "
            f"(at most {self.most:,})"
        ]
        if price is not None and images:
            paid_in, paid_out = price
            expected = (self.sent * paid_in + self.expected * paid_out) / 1e6
            most = (self.sent * paid_in + self.most * paid_out) / 1e6
            lines.append(
                f"cost at {paid_in:g} in and {paid_out:g} out a million tokens: about {expected:,.2f}, "
                f"at most {most:,.2f}; 1,000 such images: about {expected / images * 1000:,.2f}, "
                f"at most {most / images * 1000:,.2f}"
            )
        return lines


def tokens_of(text: str) -> int:
    """About how many tokens a text has; see docs/instructions.md for what tokenizers say of it."""
    return len(_PIECE.findall(text))


def estimate(messages: list[Message], prompt: Prompt, max_tokens: int) -> Estimate:
    """One request. An answer is expected to be as long as those of the worked examples are on average."""
    sent = sum(tokens_of(message["content"]) + TOKENS_PER_MESSAGE for message in messages)
    answers = [tokens_of(example.answer) for example in prompt.examples]
    expected = round(sum(answers) / len(answers)) if answers else max_tokens
    return Estimate(1, sent, min(expected, max_tokens), max_tokens)
