"""Set up the stages of `preprocess` from a config, and derive the layout of the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hdf5_writer.config import Config
from hdf5_writer.planning.inputs import LONGEST_LINE, Line
from hdf5_writer.planning.plan import TokenizerParams
from hdf5_writer.rows import RowLayout
from preprocess.config import ConfigError, RecordFormat
from preprocess.conversation import Conversation, ConversationReader
from preprocess.images import ImageChecker
from preprocess.records import parse_record
from preprocess.rejects import Reason, Rejected
from preprocess.samples import Sample
from preprocess.templates import check_template, renderer_for
from preprocess.templates.jinja.source import chat_template_digest
from preprocess.tokenize.batches import BatchEncoder
from preprocess.tokenize.encoder import Encoder
from preprocess.tokenize.tokenizer import Tokenizer, load_tokenizer


class Stages:
    """The stages of `preprocess` for one config: record → conversation → rendered text → sample."""

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        dataset = config.dataset
        self.tokenizer = tokenizer
        self.encoder = Encoder(tokenizer)
        self.batches = BatchEncoder(self.encoder)
        self.renderer = renderer_for(dataset, tokenizer)
        self._chat_template = chat_template_digest(dataset, tokenizer.name)
        self.images = ImageChecker(dataset.image_dir, dataset.check_images)
        self._reader = ConversationReader(dataset, self.renderer.traits)
        self.image_start_idx = len(self.encoder.encode(self.renderer.before_image()).ids)

    @classmethod
    def for_planning(cls, config: Config) -> Stages:
        """Load the tokenizer, check the template, and return the stages.

        Raises:
            ConfigError: the tokenizer or the template cannot be used.
        """
        tokenizer = load_tokenizer(config.processor.tokenizer_type)
        check_template(config.dataset, tokenizer)
        return cls(config, tokenizer)

    def tokenizer_params(self) -> TokenizerParams:
        """Return the properties of the tokenizer and the template that the plan records."""
        tokenizer = self.tokenizer
        return TokenizerParams(
            digest=tokenizer.digest,
            vocab_size=tokenizer.vocab_size,
            bos_id=-1 if tokenizer.bos_id is None else tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            image_start_idx=self.image_start_idx,
            chat_template=self._chat_template,
        )

    def read(
        self,
        record: dict[str, Any],
        record_format: RecordFormat,
        check_image: Callable[[str], str] | None = None,
    ) -> Conversation:
        """Validate a record of the given format and check its images with `check_image`, by default `images.check`."""
        conversation = self.validate(record, record_format)
        images = tuple(map(check_image or self.images.check, conversation.images))
        return conversation if images == conversation.images else conversation._replace(images=images)

    def validate(self, record: dict[str, Any], record_format: RecordFormat) -> Conversation:
        """Validate a record without checking its images."""
        return self._reader.read(record, record_format)

    def encode(self, conversation: Conversation) -> Sample:
        """Render and tokenize."""
        return self.encoder.encode(self.renderer.render(conversation))


def row_layout(config: Config, tokenizer: TokenizerParams) -> RowLayout:
    """Return the layout that all rows of a plan share.

    Raises:
        ConfigError: an image and one token after it do not fit into max_sequence_length. Free rows may be so short if
            there is no image folder, since a dataset of texts needs no slots.
    """
    length, slots = config.processor.max_sequence_length, config.dataset.num_patches
    fixed = not config.has_free_rows
    if fixed and length < tokenizer.image_start_idx + slots + 1:
        raise ConfigError(
            f"processor.max_sequence_length is {length}, but the {tokenizer.image_start_idx} tokens before the image, "
            f"its {slots} patches and one token after it need at least {tokenizer.image_start_idx + slots + 1}"
        )
    if not fixed and config.dataset.image_dir is not None and length < slots + 1:
        raise ConfigError(
            f"processor.max_sequence_length is {length}, but the {slots} patches of an image (dataset.image_size, "
            f"dataset.patch_size) and one token after it need at least {slots + 1}; increase it, or remove "
            "dataset.image_dir if no record has an image"
        )
    return RowLayout(
        max_sequence_length=length,
        num_patches=slots,
        image_start_idx=tokenizer.image_start_idx if fixed else None,
        pad_id=tokenizer.pad_id,
        truncate=config.processor.overflow == "truncate",
    )


_warm: dict[str, Tokenizer] = {}


def warm_up(config: Config) -> None:
    """Load the tokenizer in a new worker while the plan is being made, so that its first task can start at once."""
    name = config.processor.tokenizer_type
    _warm[name] = load_tokenizer(name)


def warm_tokenizer(config: Config, *, release: bool = False) -> Tokenizer:
    """Return the tokenizer that `warm_up` loaded in this process, or load it now.

    Args:
        config: names the tokenizer.
        release: remove it from the cache, so that the next run in this process reads its files again.
    """
    name = config.processor.tokenizer_type
    return (_warm.pop(name, None) if release else _warm.get(name)) or load_tokenizer(name)


def parse_line(line: Line) -> dict[str, Any]:
    """Parse the record of a line.

    Raises:
        Rejected: the line is too long, or not a JSON object.
    """
    if line.size > LONGEST_LINE:
        raise Rejected(Reason.LINE_TOO_LONG, f"the line has {line.size:,} bytes, expected at most {LONGEST_LINE:,}")
    return parse_record(line.data)
