"""Build the view of a sample on the page: the turns of its conversation and the positions of each."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from hdf5_writer.viewer.dataset import InspectedDataset
from hdf5_writer.viewer.decoding import Part, TokenDecoder, load_decoder
from hdf5_writer.viewer.row import Row, RowImage, RowSample
from hdf5_writer.viewer.runs import Run, sample_runs
from hdf5_writer.viewer.thumbnails import Thumbnail, Thumbnails
from hdf5_writer.viewer.turn_parser import ContextSpan, StyledText, TurnParser, turn_parser_of
from preprocess.config import ConfigError
from preprocess.square_images import AspectRatio

# Shown per row; each takes about 10 KB of the page.
MAX_PICTURES = 100


@dataclass(frozen=True)
class Side:
    """Everything needed to show rows of one dataset; a comparison has two sides."""

    dataset: InspectedDataset
    decoder: TokenDecoder
    thumbnails: Thumbnails

    def thumbnail(self, image: RowImage) -> Thumbnail:
        """Return the thumbnail of an image, from its shard if the dataset stores images."""
        if self.dataset.params.store_images == "path":
            return self.thumbnails.of(image.path)
        return self.thumbnails.made(functools.partial(self.dataset.stored_image, image))

    @functools.cached_property
    def turn_parser(self) -> TurnParser:
        """Parser for its template."""
        shown = self.dataset.params.config.dataset
        return turn_parser_of(shown.system_prompt_style, shown.system_prompt)

    @functools.cached_property
    def opening_ids(self) -> set[tuple[int, ...]]:
        """Token sequences of the opening found so far, as a cache."""
        return set()


def side_of(
    dataset: InspectedDataset,
    *,
    tokenizer: str | None = None,
    image_dir: Path | None = None,
    aspect_ratio: AspectRatio = "square",
) -> Side:
    """Prepare a dataset for display; tokenizer and images are at the paths of the run unless other paths are given.

    Raises:
        ConfigError: the given `image_dir` is not a folder.
    """
    if image_dir is not None and not image_dir.is_dir():
        raise ConfigError(f"image folder {image_dir}: no such folder; give the one that image paths are relative to")
    found, named = dataset.image_dir_and_tokenizer()
    decoder = load_decoder(dataset.params, tokenizer or named)
    return Side(dataset, decoder, Thumbnails(image_dir or found, aspect_ratio))


@dataclass(frozen=True)
class Picture:
    """An image within a turn."""

    image: RowImage
    thumbnail: Thumbnail
    style: ClassVar = "picture"


@dataclass(frozen=True)
class Block:
    """Consecutive positions of one kind; `ids` is empty for slots and padding; `is_opening` marks the system prompt."""

    kind: str
    start: int
    count: int
    ids: str
    is_opening: bool = False
    image: RowImage | None = None


@dataclass
class Turn:
    """One block of the page, with texts next to positions: all context up to an answer, or an answer.

    Attributes:
        kind: "context" or "supervised".
        items: texts and pictures without the opening, one list per speech bubble. Without a tokenizer, pictures only.
        blocks: its positions.
        pictures_left_out: number of images that are not among the items, beyond `MAX_PICTURES` of the row.
    """

    kind: str
    items: list[list[StyledText | Picture]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    pictures_left_out: int = 0

    @property
    def has_text(self) -> bool:
        """Whether it has any text."""
        return any(isinstance(item, StyledText) for item in itertools.chain.from_iterable(self.items))

    @property
    def has_words(self) -> bool:
        """Whether it has a picture or a text other than whitespace, or no items at all."""
        items = list(itertools.chain.from_iterable(self.items))
        return (
            not items
            or self.pictures_left_out > 0
            or any(isinstance(item, Picture) or item.text.strip() for item in items)
        )


@dataclass(frozen=True)
class SampleView:
    """A sample as the page shows it."""

    sample: RowSample
    supervised: int
    turns: list[Turn]

    @property
    def end(self) -> int:
        """The position after its last one; its last token, which is only a label, is shown there."""
        return self.sample.start + self.sample.length

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(width, height) in pixels of its readable pictures."""
        items = itertools.chain.from_iterable(itertools.chain.from_iterable(turn.items) for turn in self.turns)
        return [item.thumbnail.size for item in items if isinstance(item, Picture) and item.thumbnail.size]


def sample_view(side: Side, row: Row, sample: RowSample, padding: Run | None = None) -> SampleView:
    """Build the view of a sample.

    Args:
        side: its dataset.
        row: its row.
        sample: the sample.
        padding: the padding after it, to be shown with its last turn.
    """
    runs = sample_runs(row, sample)
    turns: list[list[Run]] = []
    for run in runs:
        if not turns or "supervised" in (run.kind, turns[-1][0].kind):
            turns.append([])
        turns[-1].append(run)
    shown = [_turn(side, sample, some, is_first=number == 0) for number, some in enumerate(turns)]
    if len(shown) > 1 and not shown[-1].has_words:
        # Only the template's newline after the last answer.
        shown[-2].blocks += shown.pop().blocks
    if padding is not None:
        shown[-1].blocks.append(_block(padding))
    return SampleView(sample, row.supervised(sample), shown)


def ids_of(view: SampleView) -> set[int]:
    """Return all ids in a view."""
    blocks = itertools.chain.from_iterable(turn.blocks for turn in view.turns)
    return {int(id_) for block in blocks for id_ in block.ids.split()}


def _block(run: Run, *, skipped: int = 0) -> Block:
    ids = " ".join(map(str, run.ids[skipped:]))
    return Block(run.kind, run.start + skipped, run.count - skipped, ids, image=run.image)


def _turn(side: Side, sample: RowSample, runs: list[Run], *, is_first: bool) -> Turn:
    turn = Turn("supervised" if runs[0].kind == "supervised" else "context")
    opening = _opening_tokens(side, runs[0]) if is_first else 0
    styled: list[StyledText | Picture] = []
    waiting: list[Run] = []  # runs of one text: it continues after dummy slots, but not after an image

    def flush(*, is_last: bool) -> None:
        ids = tuple(itertools.chain.from_iterable(run.ids for run in waiting))
        at_turn_start = not waiting or not waiting[0].after_image
        starts_text = bool(waiting) and side.decoder.starts_text(waiting[0].before, waiting[0].after_image)
        parts = side.decoder.parts(ids, starts_text)
        if turn.kind == "supervised":
            styled.extend(_answer(parts))
        else:
            first = is_first and at_turn_start
            single = len(sample.images) == 1 and side.turn_parser.moves_images
            styled.extend(
                side.turn_parser.parse(
                    ContextSpan(parts, first, bool(first and opening), at_turn_start, is_last, single)
                )
            )
        waiting.clear()

    for run in runs:
        if opening and run is runs[0]:
            ids = run.ids[:opening]
            turn.blocks.append(Block(run.kind, run.start, opening, " ".join(map(str, ids)), is_opening=True))
            if run.count > opening:
                turn.blocks.append(_block(run, skipped=opening))
                waiting.append(dataclasses.replace(run, ids=run.ids[opening:], before=run.ids[opening - 1]))
            continue
        turn.blocks.append(_block(run))
        if run.image is not None:
            flush(is_last=False)
            if run.image.number < MAX_PICTURES:
                styled.append(Picture(run.image, side.thumbnail(run.image)))
            else:
                turn.pictures_left_out += 1
        elif run.ids:
            waiting.append(run)
    flush(is_last=True)
    turn.items = _bubbles(styled)
    if turn.kind == "context":
        turn.items = [bubble for bubble in turn.items if not _is_blank(bubble)] or turn.items
    return turn


def _answer(parts: list[Part]) -> list[StyledText]:
    """Return the parts of an answer, without the leading space of its first token."""
    return [
        StyledText("special", text) if is_special else StyledText("text", text.removeprefix(" "))
        for text, is_special in parts
    ]


def _bubbles(styled: list[StyledText | Picture]) -> list[list[StyledText | Picture]]:
    """Group consecutive texts and pictures into bubbles; texts of only spaces are dropped."""
    bubbles: list[list[StyledText | Picture]] = []
    is_open = False
    for item in styled:
        if isinstance(item, StyledText) and not item.text.strip(" "):
            continue
        is_part = isinstance(item, Picture) or item.style == "text"
        if not (is_part and is_open):
            bubbles.append([])
        bubbles[-1].append(item)
        is_open = is_part
    return bubbles


def _is_blank(bubble: list[StyledText | Picture]) -> bool:
    """Whether a bubble has only whitespace, such as the newline of a chat template between two turns."""
    return all(isinstance(item, StyledText) and item.style == "text" and not item.text.strip() for item in bubble)


def _opening_tokens(side: Side, run: Run) -> int:
    """Return how many first tokens of a sample are the opening of its template; 0 if no number of tokens matches it."""
    opening, ids = side.turn_parser.opening, run.ids
    if not opening or not side.decoder.has_tokenizer:
        return 0
    for found in side.opening_ids:
        if ids[: len(found)] == found:
            return len(found)
    wanted = "".join(opening.split())  # some special tokens strip adjacent whitespace
    for count in range(1, len(ids) + 1):
        parts = side.decoder.parts(ids[:count], starts_text=True)
        # Text templates do not include the BOS token.
        texts = [part.text for part in parts if not part.is_special or part.text in opening]
        text = "".join("".join(texts).split())
        if text == wanted:
            after = side.decoder.parts(ids[count : count + 1], starts_text=False)
            count += bool(after) and after[0].text == opening[len(opening.rstrip()) :]
            side.opening_ids.add(ids[:count])
            return count
        if not wanted.startswith(text.rstrip("\N{REPLACEMENT CHARACTER}")):
            break
    return 0
