"""The parser of answers: what it accepts, and all reasons for rejects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.instruction_data.kinds import Kind
from preprocess.converters.instruction_data.parse import Round, rounds_of
from preprocess.rejects import Rejected

C, D, R = Kind.CONVERSATION, Kind.DETAIL, Kind.REASONING
ONE = "Question:\nWhat is it?\n===\nAnswer:\nA dog."
TWO = f"{ONE}\n===\nQuestion:\nWhere?\n===\nAnswer:\nOn grass."

GOOD = [
    (C, ONE, 1),
    (C, TWO, 2),
    (C, f"{TWO}\n===\n{TWO}", 4),
    (C, f"\n\n{ONE}\n\n", 1),
    (C, ONE.replace("\n", "\r\n"), 1),
    (C, "Question: What is it?\n===\nAnswer: A dog.", 1),
    (C, "Question:\n\nWhat is it?\n\n===\n\nAnswer:\n\nA dog.", 1),
    (C, "Question:\nWhat?\n  ===  \nAnswer:\nA dog.", 1),
    (C, "Question:\nWhat is 2 === 2?\n===\nAnswer:\nIt is a === b.", 1),
    (C, "Question:\nWhat?\n===\nAnswer:\nThe sign says Answer: yes.", 1),
    (C, "Question:\nIs there a Question: on it?\n===\nAnswer:\nNo.", 1),
    (C, "Question:\nWhat?\n===\nAnswer:\n====", 1),
    (C, "Question:\nDoes he look sorry?\n===\nAnswer:\nI'm sorry, he seems to say.", 1),
    (C, "Question:\n什么？\n===\nAnswer:\n一只狗。", 1),
    (R, ONE, 1),
    (R, "Question:\nWhy?\n===\nAnswer:\nFirst.\n\nSecond.\n\nThird.", 1),
    (R, "Question:\nWhy <b>bold</b>?\n===\nAnswer:\n- a\n- b", 1),
    (D, "A dog lies on grass.", 1),
    (D, "A dog.\n\nIt is brown.", 1),
    (D, "  A dog.  \n", 1),
    (D, "A sign reads === in red.", 1),
    (D, "A page with the words Question: and Answer: on it.", 1),
    (D, "A cat sits in a sorry state.", 1),
]

WRONG = [
    (C, "", SourceReason.EMPTY_PART),
    (C, " \n\t", SourceReason.EMPTY_PART),
    (D, "", SourceReason.EMPTY_PART),
    (C, "===", SourceReason.EMPTY_PART),
    (C, f"===\n{ONE}", SourceReason.EMPTY_PART),
    (C, f"{ONE}\n===", SourceReason.EMPTY_PART),
    (C, ONE.replace("===", "===\n==="), SourceReason.EMPTY_PART),
    (C, "Question:\n===\nAnswer:\nA dog.", SourceReason.EMPTY_PART),
    (C, "Question:\nWhat?\n===\nAnswer:", SourceReason.EMPTY_PART),
    (R, "Question:\nWhat?\n===\nAnswer:\n \n", SourceReason.EMPTY_PART),
    (C, "Question:\nWhat?", SourceReason.ODD_ROUNDS),
    (C, f"{ONE}\n===\nQuestion:\nWhere?", SourceReason.ODD_ROUNDS),
    (C, "Answer:\nA dog.", SourceReason.ODD_ROUNDS),
    (C, "Answer:\nA dog.\n===\nQuestion:\nWhat?", SourceReason.ODD_ROUNDS),
    (C, "Question:\nWhat?\n===\nQuestion:\nWhere?", SourceReason.ODD_ROUNDS),
    (C, f"{ONE}\n===\nAnswer:\nAgain.", SourceReason.ODD_ROUNDS),
    (R, "Question:\nWhy?", SourceReason.ODD_ROUNDS),
    (C, "A dog on grass.", SourceReason.UNEXPECTED_LAYOUT),
    (C, f"Here it is:\n{ONE}", SourceReason.UNEXPECTED_LAYOUT),
    (C, f"{ONE}\n===\nI hope this helps!", SourceReason.UNEXPECTED_LAYOUT),
    (C, ONE.replace("Question:", "**Question:**"), SourceReason.UNEXPECTED_LAYOUT),
    (C, ONE.replace("Question:", "question:"), SourceReason.UNEXPECTED_LAYOUT),
    (C, ONE.replace("Question:", "Q:"), SourceReason.UNEXPECTED_LAYOUT),
    (C, ONE.replace("===\n", ""), SourceReason.UNEXPECTED_LAYOUT),
    (C, ONE.replace("===", "---"), SourceReason.UNEXPECTED_LAYOUT),
    (C, TWO.replace("dog.\n===", "dog."), SourceReason.UNEXPECTED_LAYOUT),
    (C, f"```\n{ONE}\n```", SourceReason.UNEXPECTED_LAYOUT),
    (C, f"<think>Let me see.</think>{ONE}", SourceReason.UNEXPECTED_LAYOUT),
    (R, f"{ONE}\n<thinking>", SourceReason.UNEXPECTED_LAYOUT),
    (D, ONE, SourceReason.UNEXPECTED_LAYOUT),
    (D, "A dog.\n===\nA cat.", SourceReason.UNEXPECTED_LAYOUT),
    (D, "Answer: A dog.", SourceReason.UNEXPECTED_LAYOUT),
    (D, "A dog.\nQuestion: Where?", SourceReason.UNEXPECTED_LAYOUT),
    (C, "I'm sorry, but I can't help with that.", SourceReason.REFUSAL),
    (C, "I’m unable to see images.", SourceReason.REFUSAL),
    (D, "I cannot describe this.", SourceReason.REFUSAL),
    (D, "I cannot.", SourceReason.REFUSAL),
    (D, "I can’t, sorry.", SourceReason.REFUSAL),
    (R, "As an AI language model, I have no eyes.", SourceReason.REFUSAL),
    (D, "Sorry, no.", SourceReason.REFUSAL),
    (C, ONE.replace("What is it?", "<image>\nWhat is it?"), SourceReason.IMAGE_TOKEN_IN_TEXT),
    (C, ONE.replace("A dog.", "See <image>."), SourceReason.IMAGE_TOKEN_IN_TEXT),
    (D, "This <image> shows a dog.", SourceReason.IMAGE_TOKEN_IN_TEXT),
]


@pytest.mark.parametrize(("kind", "answer", "rounds"), GOOD)
def test_an_answer_in_the_required_layout_gives_its_rounds(kind, answer, rounds):
    found = rounds_of(answer, kind)
    assert len(found) == rounds
    assert all(each.answer and bool(each.question) == kind.answers_in_rounds for each in found)


@pytest.mark.parametrize(("kind", "answer", "reason"), WRONG)
def test_an_invalid_answer_is_rejected_with_the_reason(kind, answer, reason):
    with pytest.raises(Rejected) as stopped:
        rounds_of(answer, kind)
    assert stopped.value.reason is reason


def test_at_least_sixty_answers_are_tested():
    assert len(GOOD) + len(WRONG) >= 60


PIECES = st.sampled_from(["===", " === ", "Answer:", "Question:", "<image>", "\n", "\r\n", " ", "a", "dog.", "狗"])
TEXT = st.lists(PIECES, min_size=1, max_size=8).map("".join).filter(str.strip) | st.text(min_size=1).filter(str.strip)
HEADERS = ("===", "Question:", "Answer:")


def as_answer(pairs):
    return "\n===\n".join(f"Question:\n{question}\n===\nAnswer:\n{answer}" for question, answer in pairs)


@pytest.mark.slow
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), st.sampled_from([C, R]))
def test_rounds_that_contain_separators_headers_or_image_tokens_are_parsed_unchanged_or_rejected(pairs, kind):
    laid_out = as_answer(pairs)
    whole = tuple(Round(question.strip(), answer.strip()) for question, answer in pairs)
    texts = [text for pair in pairs for text in pair]
    ambiguous = any(line.strip().startswith(HEADERS) for text in texts for line in text.split("\n"))
    try:
        found = rounds_of(laid_out, kind)
    except Rejected:
        assert ambiguous or any("<image>" in text or "think" in text for text in texts)
    else:
        # A text in the layout of rounds cannot be distinguished from rounds; nothing of it is lost.
        assert found == whole or ambiguous
        rebuilt = as_answer([(each.question, each.answer) for each in found])
        assert "".join(rebuilt.split()) == "".join(laid_out.split())
        assert not any("<image>" in text for each in found for text in (each.question, each.answer))


@pytest.mark.slow
@given(TEXT)
def test_a_description_is_parsed_unchanged_or_rejected(text):
    try:
        (found,) = rounds_of(text, D)
    except Rejected:
        return
    assert found == Round("", text.strip())
