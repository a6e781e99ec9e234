"""Estimate the tokens and the cost of requests before they are sent."""

from __future__ import annotations

import re
from dataclasses import dataclass

from preprocess.converters.instruction_data.prompts import Message, Prompt

# Counted as one token each, without a tokenizer: an English word, a digit, a sign, a letter of another alphabet.
_PIECE = re.compile(r"[A-Za-z]+|\S")
# For role and end of turn, in common chat templates.
TOKENS_PER_MESSAGE = 4


@dataclass(frozen=True)
class Estimate:
    """A number of requests, their input tokens, and their expected and maximum output tokens."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    most_output_tokens: int = 0

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.most_output_tokens + other.most_output_tokens,
        )

    def lines(self, price: tuple[float, float] | None, images: int) -> list[str]:
        """The lines that show the estimate to the user.

        Args:
            price: the price of a million input tokens and of a million output tokens; None if not given.
            images: the number of images that the requests are about.
        """
        lines = [
            f"estimate: {self.requests:,} requests, about {self.input_tokens:,} input tokens and "
            f"{self.output_tokens:,} output tokens (at most {self.most_output_tokens:,})"
        ]
        if price is not None and images:
            input_price, output_price = price
            expected = (self.input_tokens * input_price + self.output_tokens * output_price) / 1e6
            most = (self.input_tokens * input_price + self.most_output_tokens * output_price) / 1e6
            lines.append(
                f"cost at {input_price:g} per million input tokens and {output_price:g} per million output tokens: "
                f"about {expected:,.2f}, at most {most:,.2f}; per 1,000 images: about {expected / images * 1000:,.2f}, "
                f"at most {most / images * 1000:,.2f}"
            )
        return lines


def tokens_of(text: str) -> int:
    """The approximate number of tokens of a text; docs/instructions.md compares it with those of tokenizers."""
    return len(_PIECE.findall(text))


def estimate(messages: list[Message], prompt: Prompt, max_tokens: int) -> Estimate:
    """The estimate for one request; the expected length of an answer is the mean of the examples in the prompt."""
    input_tokens = sum(tokens_of(message["content"]) + TOKENS_PER_MESSAGE for message in messages)
    answers = [tokens_of(example.answer) for example in prompt.examples]
    output_tokens = round(sum(answers) / len(answers)) if answers else max_tokens
    return Estimate(1, input_tokens, min(output_tokens, max_tokens), max_tokens)
