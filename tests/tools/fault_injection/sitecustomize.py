"""Loaded by every Python process of a run under test: kills it as environment variables specify.

KILL_AT=NAME:N:WHEN   SIGKILL this process (or, with KILL_GROUP, its group) at the N-th call of os.NAME;
                      WHEN is `before` or `after` the call
KILL_ON_RECORD=TEXT   SIGKILL this process when it parses a record that contains TEXT
"""

import os
import signal


def _die() -> None:
    if "KILL_GROUP" in os.environ:
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_at(name: str, number: int, when: str) -> None:
    original, calls = getattr(os, name), 0

    def killing(*arguments, **options):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls == number and when == "before":
            _die()
        result = original(*arguments, **options)
        if calls == number:
            _die()
        return result

    setattr(os, name, killing)


def _kill_on(text: bytes) -> None:
    import orjson

    original = orjson.loads

    def killing(data):  # type: ignore[no-untyped-def]
        if text in bytes(data):
            _die()
        return original(data)

    orjson.loads = killing


if "KILL_AT" in os.environ:
    _name, _number, _when = os.environ["KILL_AT"].split(":")
    _kill_at(_name, int(_number), _when)
if "KILL_ON_RECORD" in os.environ:
    _kill_on(os.environ["KILL_ON_RECORD"].encode())
