"""The formats of records: what the parts of each are called, and which of them a file has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from preprocess.config import DatasetConfig, RecordFormat
from preprocess.record_keys import RecordKeys

# Whose turn a role means, beside those of LLaVA: ShareGPT's users took both, OpenAI's API has the second ones.
_ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}
# LLaMA-Factory's name for the system text of a record, and that of lmms-finetune.
_SYSTEM_KEYS = ("system", "system_prompt")
# Records at the beginning of a file by which its format is decided.
MOST_LOOKED_AT = 20

KeysByFormat = Mapping[RecordFormat, RecordKeys]


def keys_by_format(dataset: DatasetConfig) -> KeysByFormat:
    """The names that the parts of a record have in each format.

    `llava` and `sharegpt` differ in the roles they know and in the system text that a record may have beside its
    turns; `messages` are those of OpenAI's API, as TRL and LLaMA-Factory read them.
    """
    roles = _ROLES | dataset.roles
    llava = RecordKeys(
        image=dataset.image_key,
        image_token=dataset.image_token,
        turns=dataset.multi_turn_key,
        content=dataset.multi_turn_content_key,
        role=dataset.role_key,
    )
    sharegpt = replace(
        llava,
        system=_SYSTEM_KEYS,
        human_roles=tuple(name for name, meaning in roles.items() if meaning == "human"),
        assistant_roles=tuple(name for name, meaning in roles.items() if meaning == "gpt"),
        system_roles=tuple(name for name, meaning in roles.items() if meaning == "system"),
    )
    messages = replace(sharegpt, turns="messages", content="content", role="role")
    return {"llava": llava, "sharegpt": sharegpt, "messages": messages}


def format_of(records: Iterable[Mapping[str, Any]], keys: KeysByFormat) -> RecordFormat:
    """The format of a file by its first records: `llava` unless they have something that only another can read."""
    found = Counter(_format_of_record(record, keys) for record in records)
    if found["messages"] > found["llava"] + found["sharegpt"]:
        return "messages"
    return "sharegpt" if found["sharegpt"] else "llava"


def _format_of_record(record: Mapping[str, Any], keys: KeysByFormat) -> RecordFormat | None:
    llava, sharegpt, messages = keys["llava"], keys["sharegpt"], keys["messages"]
    if _has_turns(record, messages) and (
        not _has_turns(record, llava)
        or (llava.turns, llava.role, llava.content) == (messages.turns, messages.role, messages.content)
    ):
        return "messages"
    if not _has_turns(record, llava):
        return None
    if any(type(record.get(name)) is str and record[name].strip() for name in sharegpt.system):
        return "sharegpt"
    known = (*llava.human_roles, *llava.assistant_roles, *llava.system_roles)
    others = (*sharegpt.human_roles, *sharegpt.assistant_roles, *sharegpt.system_roles)
    roles = [turn.get(llava.role) for turn in record[llava.turns] if type(turn) is dict]
    return "sharegpt" if any(role in others and role not in known for role in roles) else "llava"


def _has_turns(record: Mapping[str, Any], keys: RecordKeys) -> bool:
    turns = record.get(keys.turns)
    return type(turns) is list and bool(turns) and type(turns[0]) is dict and keys.role in turns[0]
