import json
import math
import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocess.converters.core import json_array
from preprocess.converters.core.errors import InputError
from preprocess.converters.core.json_array import read_array
from preprocess.converters.core.json_scan import element_ends
from preprocess.converters.json2jsonl import one_line
from preprocess.rejects import Rejected

BLANKS = st.text(alphabet=" \t\r\n", max_size=4)
KEYS = st.text(max_size=3) | st.sampled_from(["id", "image", "value", '"', "\\", "a\\"])
STRINGS = st.text(max_size=8) | st.sampled_from(['}, {"id"', "\\", '\\"', "[{,", "\n", "\ud83d", "🙂", "\u2028", ""])
NUMBERS = st.sampled_from(["0", "-0", "1e5", "1E+05", "0.1000", "-0.0", "1e999", "123456789012345678901234567890"])


@st.composite
def written_value(draw, depth=3):
    """JSON text of any value with any whitespace, repeated keys, and text escaped or not."""
    kind = draw(st.integers(0, 5 if depth else 3))
    if kind == 0:
        return draw(NUMBERS)
    if kind == 1:
        return draw(st.sampled_from(["true", "false", "null"]))
    if kind in (2, 3):
        text = draw(STRINGS)
        escaped = draw(st.booleans()) or any(0xD800 <= ord(c) < 0xE000 for c in text)
        return json.dumps(text, ensure_ascii=escaped)
    items = draw(st.lists(written_value(depth=depth - 1), max_size=4))
    if kind == 5:
        items = [f"{json.dumps(draw(KEYS))}{draw(BLANKS)}:{draw(BLANKS)}{item}" for item in items]
    return _joined(draw, items, *("{}" if kind == 5 else "[]"))


def _joined(draw, items, opening, closing):
    blank = draw(BLANKS) if draw(st.booleans()) else None
    parts = [(draw(BLANKS) if blank is None else blank) + item for item in items]
    return opening + ",".join(parts) + draw(BLANKS) + closing


@st.composite
def written_array(draw):
    values = st.lists(written_value(), max_size=8)
    # Records that begin with the same keys, as in a dataset, are split by another method than the rest.
    alike = st.lists(st.builds('{{"id": {}, "parts": [{{"id": {}}}]}}'.format, written_value(2), NUMBERS), max_size=8)
    items = draw(values | alike | st.tuples(alike, values).map(lambda both: both[0] + both[1] + both[0]))
    return draw(BLANKS) + _joined(draw, items, "[", "]") + draw(BLANKS)


def exactly(text):
    """The value with everything that a parser usually drops: digits as written, order of keys, repeated keys."""
    return json.loads(text, parse_float=str, parse_int=str, object_pairs_hook=lambda pairs: ("object", pairs))


def read(path, **options):
    return [element for batch in read_array(path, **options) for element in batch.raw]


@pytest.mark.slow
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(text=written_array(), block=st.sampled_from([4, 7, 64, 1 << 17]), bom=st.booleans())
def test_each_line_has_exactly_the_value_of_its_element(tmp_path, monkeypatch, text, block, bom):
    monkeypatch.setattr(json_array, "BLOCK", block)
    path = tmp_path / "any.json"
    path.write_bytes(b"\xef\xbb\xbf" * bom + text.encode())
    lines = [one_line(raw) for raw in read(path, keep_values=False)]
    assert [exactly(line.decode()) for line in lines] == exactly(text)
    assert not any(b"\n" in line or b"\r" in line for line in lines)


@pytest.mark.slow
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=written_array(), place=st.floats(0, 1), junk=st.sampled_from(["", ",", "]", "}", '"', "{", "x", "\\", "\x00"])
)
def test_json_is_accepted_or_refused_as_by_python(tmp_path, monkeypatch, text, place, junk):
    monkeypatch.setattr(json_array, "BLOCK", 16)
    at = int(place * len(text))
    broken = text[:at] + junk + text[at + 1 :]
    path = tmp_path / "broken.json"
    try:
        path.write_bytes(broken.encode())
        expected = exactly(broken)
    except ValueError:
        expected = None
    if isinstance(expected, list):
        assert [exactly(raw.decode()) for raw in read(path)] == expected
    elif path.exists():
        with pytest.raises(InputError, match=r"broken\.json: byte \d+: "):
            read(path)


@pytest.mark.parametrize(
    ("content", "byte", "message"),
    [
        (b"", 0, "found the end of the file, expected an array"),
        (b'{"a": 1}', 0, r"found '\{', expected an array '\['"),
        (b"\xff\xfe[\0]\0", 0, "UTF-16"),
        (b'[{"a": 1}, {"a": 2}', 19, "the file ends inside element 1, which begins at byte 10"),
        (b'[{"a": "b', 9, "the file ends inside element 0"),
        (b'[{"a": 1},', 10, "the file ends inside element 1"),
        (b"[1, 2, ]", 7, r"found ']', expected a value after the comma"),
        (b"[1, , 2]", 4, "found ',', expected a value after the comma"),
        (b'[{"a": 1, b}]', 10, "expecting property name"),
        (b'[{"a": 1}, {"a": NaN}]', 17, "NaN is not JSON"),
        (b'["NaN", -Infinity]', 8, "-Infinity is not JSON"),
        (b'[{"a": 1} {"a": 2}]', 10, "extra data"),
        (b'["a\xffb"]', 3, "0xff is not UTF-8"),
        (b'["a\x0ab"]', 3, "invalid control character"),
        (b'[{"a": 1]]', 8, "expecting ',' delimiter"),
        (b"[1, 2}", 5, "found '}', expected ',' or ']'"),
        (b"[01]", 2, "extra data"),
        (b"[1] 2", 4, "found '2' after the end of the array"),
        (b"[1]\x00", 3, "found byte 0x00 after"),
    ],
)
def test_an_error_names_the_byte_offset_and_the_content_found(tmp_path, content, byte, message):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.json: byte {byte}: .*{message}"):
        read(path)


def test_an_error_far_into_a_large_file_names_its_byte_offset_in_the_file(tmp_path):
    records = [json.dumps({"id": i, "text": "naïve " * 20}, ensure_ascii=False) for i in range(5000)]
    records[4321] = records[4321].replace("naïve", "na\tve", 1)
    content = ("[" + ", ".join(records) + "]").encode()
    path = tmp_path / "large.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"byte {content.index(9)}: invalid control character"):
        read(path)


def test_a_value_nested_too_deeply_is_an_error_without_a_crash(tmp_path):
    path = tmp_path / "deep.json"
    path.write_bytes(b"[" + b"[" * 100_000 + b"]" * 100_000 + b"]")
    with pytest.raises(InputError, match="nested too deeply"):
        read(path)


def test_a_missing_quote_does_not_load_the_rest_of_the_file_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_array, "SUSPICIOUS", 1 << 12)
    monkeypatch.setattr(json_array, "BLOCK", 1 << 10)
    path = tmp_path / "bad.json"
    path.write_bytes(b'[{"a": "b, "c": {"d": "' + b'x", "y' * 100_000 + b"]")
    with open(path, "rb", buffering=0) as file:
        reader = json_array._Reader(file, path, False)
        reader.skip_byte_order_mark()
        with pytest.raises(InputError, match="byte 12: expecting ',' delimiter"):
            list(reader.elements(b"]"))
        assert file.tell() < 1 << 15


def test_a_lone_surrogate_is_kept_as_written_and_has_no_value(tmp_path):
    path = tmp_path / "half.json"
    path.write_bytes(rb'["\ud83d", "\ud83d\ude42"]')
    (batch,) = read_array(path)
    assert batch.raw == [rb'"\ud83d"', rb'"\ud83d\ude42"']
    assert isinstance(batch.values[0], Rejected)
    assert batch.values[1] == "🙂"


def test_an_element_larger_than_any_block_is_read(tmp_path):
    path = tmp_path / "one.json"
    path.write_text(json.dumps([{"id": 1, "text": "a,b" * 300_000}, {"id": 2}]))
    assert [json.loads(raw)["id"] for raw in read(path)] == [1, 2]


def test_records_that_begin_differently_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(json_array, "BLOCK", 200)
    records = [{"id": i, "x": [{"id": 1}, {"id": 2}]} if i % 3 else {"model": "", "id": i} for i in range(500)]
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(records))
    assert [json.loads(raw) for raw in read(path)] == records


@pytest.mark.parametrize("bare", [True, False])
def test_an_array_is_found_under_its_key_after_any_other_content(tmp_path, monkeypatch, bare):
    monkeypatch.setattr(json_array, "BLOCK", 3)
    path = tmp_path / "object.json"
    others = {"info": {"a": ["]", {}], "b": '"}'}, "n": -1.5e3, "data_": [1, [2]], "t": 'a"b\\', "z": None}
    path.write_text(json.dumps({**others, "data": [{"x": 1}, {"x": [2]}], "after": "["}))
    assert [json.loads(raw) for raw in read(path, key="data", bare=bare)] == [{"x": 1}, {"x": [2]}]
    with pytest.raises(InputError, match="no key 'nowhere' among the keys 'info', 'n', 'data_'"):
        read(path, key="nowhere")


@pytest.mark.parametrize("block", [8, 64, 1 << 17])
def test_records_of_the_next_array_are_not_read_as_part_of_this_one(tmp_path, monkeypatch, block):
    monkeypatch.setattr(json_array, "BLOCK", block)
    path = tmp_path / "two.json"
    records = [{"id": i} for i in range(40)]
    path.write_text(json.dumps({"data": records, "more": records}))
    assert [json.loads(raw) for raw in read(path, key="data")] == records


def test_an_array_is_refused_where_an_object_is_expected(tmp_path):
    path = tmp_path / "list.json"
    path.write_text("[]")
    with pytest.raises(InputError, match=r"found '\[', expected an object with 'annotations'"):
        read(path, key="annotations", bare=False)


@pytest.mark.slow
def test_ends_of_elements_equal_those_of_a_byte_by_byte_scanner():
    def slowly(text):
        depth, in_string, commas, i = 0, False, [], 0
        while i < len(text):
            byte = text[i : i + 1]
            if byte == b"\\":
                i += text[i + 1 : i + 2] in (b'"', b"\\")
            elif byte == b'"':
                in_string = not in_string
            elif in_string:
                pass
            elif byte in b"[{":
                depth += 1
            elif byte in b"]}":
                depth -= 1
                if depth < 0:
                    return commas, i
            elif byte == b"," and depth == 0:
                commas.append(i)
            i += 1
        return commas, -1

    chance = random.Random(0)
    kinds = Counter()
    for _ in range(3000):
        text = bytes(chance.choices(b'"\\[]{},a |~', k=chance.randrange(60)))
        assert element_ends(text) == slowly(text), text
        kinds[element_ends(text)[1] >= 0] += 1
    assert math.prod(kinds.values())
