"""Loaded by every Python process of a run under test: kills it where the environment says.

SABOTAGE_AT=NAME:N:WHEN   SIGKILL this process (or, with SABOTAGE_GROUP, its group) at the N-th call of os.NAME,
                          WHEN being `before` or `after` the call
SABOTAGE_RECORD=TEXT      SIGKILL this process when it parses a record that holds TEXT
"""

import os
import signal


def _die() -> None:
    if "SABOTAGE_GROUP" in os.environ:
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_at(name: str, number: int, when: str) -> None:
    original, calls = getattr(os, name), 0

    def deadly(*arguments, **options):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls == number and when == "before":
            _die()
        result = original(*arguments, **options)
        if calls == number:
            _die()
        return result

    setattr(os, name, deadly)


def _kill_on(text: bytes) -> None:
    import orjson

    original = orjson.loads

    def deadly(data):  # type: ignore[no-untyped-def]
        if text in bytes(data):
            _die()
        return original(data)

    orjson.loads = deadly


if "SABOTAGE_AT" in os.environ:
    _name, _number, _when = os.environ["SABOTAGE_AT"].split(":")
    _kill_at(_name, int(_number), _when)
if "SABOTAGE_RECORD" in os.environ:
    _kill_on(os.environ["SABOTAGE_RECORD"].encode())
