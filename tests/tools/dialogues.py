"""Turns and images of published datasets, before and after conversion."""

import hashlib


def stored(data, suffix):
    digest = hashlib.sha256(data).hexdigest()
    return f"{digest[:2]}/{digest[2:4]}/{digest}{suffix}"


def dialogue(*turns):
    return [{"from": role, "value": value} for role, value in turns]


def values(record):
    return [(turn["from"], turn["value"]) for turn in record["conversations"]]
