"""One line of results → the text of the answer. Output and error files of a batch service have such lines.

Format: https://platform.openai.com/docs/api-reference/batch/request-output. vLLM's `run_batch` writes the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preprocess.converters.core.reasons import SourceReason
from preprocess.rejects import Rejected, shorten


def answer_of(entry: Mapping[str, Any]) -> str:
    """The text that the model wrote.

    Raises:
        Rejected: HTTP_ERROR, BAD_RESPONSE (no chat completion), CUT_OFF or REFUSAL.
    """
    response, error = entry.get("response"), entry.get("error")
    status = response.get("status_code") if isinstance(response, dict) else None
    body = response.get("body") if isinstance(response, dict) else None
    if error or (status is not None and status != 200):
        found = error or body
        raise Rejected(SourceReason.HTTP_ERROR, f"status {status}: {shorten(str(found), 200)}")
    choices = body.get("choices") if isinstance(body, dict) else None
    if not (isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict)):
        raise Rejected(
            SourceReason.BAD_RESPONSE, f"expected a chat completion with one choice, found {shorten(str(body))}"
        )
    message, finish = choices[0].get("message"), choices[0].get("finish_reason")
    if not isinstance(message, dict):
        raise Rejected(SourceReason.BAD_RESPONSE, f"the choice has no message: {shorten(str(choices[0]))}")
    if message.get("refusal") or finish == "content_filter":
        raise Rejected(
            SourceReason.REFUSAL, f"{finish}: {shorten(str(message.get('refusal') or message.get('content')))}"
        )
    if finish == "length":
        raise Rejected(
            SourceReason.CUT_OFF, "finish_reason is 'length': the answer reached --max_tokens of the request"
        )
    text = message.get("content")
    if finish != "stop" or not isinstance(text, str):
        detail = f"expected text that ended with 'stop', found finish_reason {finish!r} and {shorten(str(text))}"
        raise Rejected(SourceReason.BAD_RESPONSE, detail)
    return text
