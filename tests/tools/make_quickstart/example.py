"""The embedded example: images, captions, conversations and a tokenizer, all made for this project."""

import json
from pathlib import Path

from .charts import chart_pictures
from .picture import Picture, Round
from .scenes import scene_pictures
from .shapes import shape_pictures
from .text_conversations import TEXT_CONVERSATIONS
from .tokenizer_corpus import ASCII, PROSE, SYSTEM_PROMPTS
from .train_tokenizer import train, write_tokenizer

DEFAULT_OUT = Path(__file__).resolve().parents[3] / "configs" / "quickstart"

CAPTION_REQUESTS = [
    "Say in one sentence what this picture shows.",
    "What can be seen here? Answer briefly.",
    "Write a short caption for this picture.",
    "Sum up the picture in a few words.",
    "Give a brief description of what is drawn.",
]

Record = dict[str, object]


def pictures() -> list[Picture]:
    """Draw all images of the example."""
    return [*shape_pictures(), *chart_pictures(), *scene_pictures()]


def with_image(text: str, place: int) -> str:
    """Put `<image>` before the text, or after it in every third record, since real data has both."""
    return f"{text}\n<image>" if place % 3 == 2 else f"<image>\n{text}"


def record(identity: str, rounds: tuple[Round, ...], image: str | None = None) -> Record:
    """Format question-answer rounds as a LLaVA record."""
    turns = [
        {"from": speaker, "value": value}
        for question, answer in rounds
        for speaker, value in (("human", question), ("gpt", answer))
    ]
    head = {"id": identity} if image is None else {"id": identity, "image": image}
    return {**head, "conversations": turns}


def caption_records(drawn: list[Picture]) -> list[Record]:
    """Return the records of phase 1: every image once, with its caption."""
    return [
        record(
            _identity(picture),
            ((with_image(CAPTION_REQUESTS[place % len(CAPTION_REQUESTS)], place), picture.caption),),
            picture.path,
        )
        for place, picture in enumerate(drawn)
    ]


def conversation_records(drawn: list[Picture]) -> list[Record]:
    """Return the records of phase 2: every image with its rounds, then the text-only conversations."""
    records = []
    for place, picture in enumerate(drawn):
        (question, answer), *later = picture.rounds
        rounds = ((with_image(question, place), answer), *later)
        records.append(record(_identity(picture), rounds, picture.path))
    records.extend(record(f"text-{n:04d}", rounds) for n, rounds in enumerate(TEXT_CONVERSATIONS, start=1))
    return records


def _identity(picture: Picture) -> str:
    return picture.path.removesuffix(".png").replace("/", "-")


def texts_of(records: list[Record]) -> list[str]:
    """Return the texts of the records, without image tokens."""
    return [turn["value"].replace("<image>", "").strip("\n") for one in records for turn in one["conversations"]]  # type: ignore[attr-defined]


def write_records(path: Path, records: list[Record]) -> None:
    """Write one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in records]
    path.write_bytes("".join(lines).encode())


def make_quickstart(out: Path) -> None:
    """Write the whole example below `out`."""
    drawn = pictures()
    for picture in drawn:
        path = out / "images" / picture.path
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.image.save(path, optimize=True)

    phase_1, phase_2 = caption_records(drawn), conversation_records(drawn)
    write_records(out / "phase_1" / "captions.jsonl", phase_1)
    write_records(out / "phase_2" / "conversations.jsonl", phase_2)

    model = train([*SYSTEM_PROMPTS, ASCII, PROSE, *texts_of(phase_1), *texts_of(phase_2)])
    write_tokenizer(model, out / "tokenizer", out / "tokenizer_sentencepiece")
