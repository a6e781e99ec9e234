"""The record formats: the key names of each, and the detection of the format of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from preprocess.config import DatasetConfig, RecordFormat
from preprocess.record_keys import RecordKeys

# Role name → LLaVA's role. ShareGPT data uses both names of a role, OpenAI's API the second.
_ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}
# Keys of the system text of a record: of LLaMA-Factory, and of lmms-finetune.
_SYSTEM_KEYS = ("system", "system_prompt")
# Number of records at the beginning of a file that decide its format.
MAX_INSPECTED = 20

KeysByFormat = Mapping[RecordFormat, RecordKeys]


def keys_by_format(dataset: DatasetConfig) -> KeysByFormat:
    """The key names of a record in each format.

    `sharegpt` is `llava` with more roles and an optional system text outside the turns; `messages` is the format of
    OpenAI's API, as read by TRL and LLaMA-Factory.
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
    """Detect the format of a file by its first records: `llava` unless only another format can read them."""
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
