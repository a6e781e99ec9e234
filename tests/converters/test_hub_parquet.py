"""`preprocess_dataset parquet` on files of each published layout."""

import json
import random
import shutil
from io import BytesIO

import pytest
from conftest import create
from dialogues import dialogue, stored, values
from interruption import contents, killed_at
from real_excerpts import SHARED, with_real_excerpts

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
RATINGS = ("relevance", "visual_dependency", "image_correspondence", "formatting")


def list_of(**fields):
    return pyarrow.list_(pyarrow.struct(list(fields.items())))


def finevision_schema(*, other_order=False):
    """The published schema; files differ in the order of columns and of the fields of a turn."""
    turn = [("user", pyarrow.string()), ("assistant", pyarrow.string())]
    rated = [
        column
        for name in (reversed(RATINGS) if other_order else RATINGS)
        for column in ((f"{name}_ratings", pyarrow.list_(pyarrow.int64())), (f"{name}_min", pyarrow.int64()))
    ]
    texts = ("texts", pyarrow.list_(pyarrow.struct(turn[::-1] if other_order else turn)))
    columns = [("images", pyarrow.list_(IMAGE)), texts, ("source", pyarrow.string()), *rated]
    return pyarrow.schema(columns[::-1] if other_order else columns)


TEXT = pyarrow.string()
SCHEMAS = {
    "finevision": finevision_schema(),
    "cauldron": pyarrow.schema(
        [("images", pyarrow.list_(IMAGE)), ("texts", list_of(user=TEXT, assistant=TEXT, source=TEXT))]
    ),
    "llava": pyarrow.schema(
        [
            ("id", TEXT),
            ("image", IMAGE),
            ("conversations", pyarrow.list_(pyarrow.struct([("from", TEXT), ("value", TEXT)]))),
            ("data_source", TEXT),
        ]
    ),
    "messages": pyarrow.schema(
        [
            ("messages", list_of(content=list_of(index=pyarrow.int64(), text=TEXT, type=TEXT), role=TEXT)),
            ("images", pyarrow.list_(IMAGE)),
        ]
    ),
    "caption": pyarrow.schema([("id", TEXT), ("image", IMAGE), ("caption", TEXT)]),
}


def write(path, rows, schema, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows, schema=schema)
    parquet.write_table(table, path, **options)
    return path


@pytest.fixture
def run(preprocess, tmp_path):
    def convert(*more, source=tmp_path / "data", out=tmp_path / "jsonl", images=tmp_path / "images"):
        arguments = ["--input", source, "--output_jsonl_dir", out, "--output_image_dir", images]
        return preprocess("parquet", *arguments, *more, into=out)

    return convert


def struct(data, path=None):
    return {"bytes": data, "path": path}


def pair(user, assistant, **more):
    return {"user": user, "assistant": assistant, **more}


def rated(images, texts, **ratings):
    found = {f"{name}_ratings": [5] * len(texts) for name in RATINGS} | {f"{name}_min": 5 for name in RATINGS}
    return {"images": images, "texts": texts, "source": "test", **found, **ratings}


@pytest.mark.slow
@pytest.mark.parametrize("other_order", [False, True])
def test_finevision_is_read_in_both_orders_of_its_fields(run, tmp_path, image_bytes, other_order):
    red, blue = image_bytes("red"), image_bytes("blue", "PNG")
    rows = [
        rated([struct(red)], [pair("What?", "Red."), pair("Sure?", "Yes.")]),
        rated([struct(red, "a.png"), struct(blue)], [pair("Both?", "Yes.")]),
        rated([], [pair("2 + 2?", "4")]),
        rated(None, [pair("1 + 1?", "2")]),
    ]
    write(tmp_path / "data/ai2d/train-00000-of-00001.parquet", rows, finevision_schema(other_order=other_order))
    result = run()
    assert result.code == 0, result.err
    assert result.records[0] == {
        "id": "ai2d/train-00000-of-00001/0",
        "image": stored(red, ".jpg"),
        "conversations": [
            {"from": "human", "value": "<image>\nWhat?"},
            {"from": "gpt", "value": "Red."},
            {"from": "human", "value": "Sure?"},
            {"from": "gpt", "value": "Yes."},
        ],
    }
    assert result.records[1]["image"] == [stored(red, ".jpg"), stored(blue, ".png")]
    assert values(result.records[1])[0] == ("human", "<image>\n<image>\nBoth?")
    assert ["image" in record for record in result.records] == [True, True, False, False]
    assert (tmp_path / "images" / stored(blue, ".png")).read_bytes() == blue
    assert contents(tmp_path / "images") == {stored(red, ".jpg"): red, stored(blue, ".png"): blue}
    assert (tmp_path / "jsonl/ai2d/train-00000-of-00001.jsonl").exists()
    assert "4 read = 4 written + 0 rejected, 2 images" in result.out
    assert "layout finevision: image=images, text=texts; columns not used: " in result.out
    assert "source" in result.out


def test_turns_or_rows_with_ratings_below_the_minimum_are_left_out_and_counted(run, tmp_path, image_bytes):
    one = [struct(image_bytes("red"))]
    three = [pair("a?", "a"), pair("b?", "b"), pair("c?", "c")]
    rows = [
        rated(one, three, relevance_ratings=[1, 4, 3]),
        rated(one, three, relevance_ratings=[1, 2, 2]),
        rated(one, three, relevance_ratings=[None, 2, None]),
        rated(one, three, relevance_ratings=None),
        rated(one, three, formatting_min=1),
    ]
    write(tmp_path / "data/a.parquet", rows, SCHEMAS["finevision"])
    result = run("--min_rating", "relevance_ratings=3", "formatting_min=2")
    assert [[text for role, text in values(record) if role == "gpt"] for record in result.records] == [
        ["b", "c"],
        ["a", "c"],
        ["a", "b", "c"],
    ]
    assert values(result.records[0])[0] == ("human", "<image>\nb?")
    assert result.reasons == [("row 1", "below_min_rating"), ("row 4", "below_min_rating")]
    assert "5 read = 3 written + 2 rejected, 1 images, 2 turns dropped" in result.out
    assert "2 turns dropped" in run("--min_rating", "relevance_ratings=3", "formatting_min=2").out
    other = run()
    assert other.code == 2
    assert "min_rating was 'formatting_min=2, relevance_ratings=3' and is '' now" in other.err


def test_the_cauldron_is_read(run, tmp_path, image_bytes):
    rows = [{"images": [struct(image_bytes("red"))], "texts": [pair("Q\nA. x", "A", source="AI2D")]}]
    write(tmp_path / "data/train.parquet", rows, SCHEMAS["cauldron"])
    result = run("--image_prefix", "cauldron/images")
    assert values(result.records[0]) == [("human", "<image>\nQ\nA. x"), ("gpt", "A")]
    assert result.records[0]["image"] == f"cauldron/images/{stored(image_bytes('red'), '.jpg')}"
    assert "layout cauldron" in result.out


def test_llava_onevision_keeps_tokens_turns_and_ids_unchanged(run, tmp_path, image_bytes):
    red = image_bytes("red")
    kept = dialogue(("system", "Be brief."), ("human", "What is\n<image> this?"), ("gpt", " A bus. "))
    rows = [
        {"id": "000.jpg", "image": struct(red), "conversations": kept},
        {"id": None, "image": None, "conversations": dialogue(("human", "Hi"), ("gpt", "Hello"))},
        {"id": "c", "image": None, "conversations": dialogue(("human", "<image>\nHi"), ("gpt", "Hello"))},
        {"id": "d", "image": struct(red), "conversations": dialogue(("human", "Hi"), ("gpt", "Hello"))},
        {"id": "e", "image": struct(red), "conversations": dialogue(("human", "<image>"), ("gpt", "<image> Hello"))},
        {"id": "f", "image": struct(red), "conversations": dialogue(("human", "<image>"), ("tool", "Hello"))},
        {"id": "g", "image": struct(red), "conversations": dialogue(("human", "<image>"), ("gpt", None))},
        {"id": "h", "image": struct(red), "conversations": []},
        {"id": "i", "image": struct(None, "gone.jpg"), "conversations": kept},
        {"id": "j", "image": struct(red), "conversations": None},
        {"id": "k", "image": struct(b"GIF89a no"), "conversations": kept},
        {"id": "l", "image": struct(red[:-200]), "conversations": kept},
        {"id": "m", "image": struct(red), "conversations": [None]},
    ]
    write(tmp_path / "data/p.parquet", rows, SCHEMAS["llava"])
    result = run()
    assert [record["id"] for record in result.records] == ["p/000.jpg", "p/1"]
    assert result.records[0]["conversations"] == kept
    assert "image" not in result.records[1]
    assert result.reasons == [
        ("row 2", "no_image"),
        ("row 3", "image_tokens"),
        ("row 4", "image_token_in_text"),
        ("row 5", "unknown_role"),
        ("row 6", "bad_turn"),
        ("row 7", "no_turns"),
        ("row 8", "no_image"),
        ("row 9", "no_turns"),
        ("row 10", "image_does_not_decode"),
        ("row 11", "image_does_not_decode"),
        ("row 12", "bad_turn"),
    ]
    assert "layout llava: id=id, image=image, text=conversations; columns not used: data_source" in result.out


def part(text=None, index=None):
    return {"index": index, "text": text, "type": "image" if text is None else "text"}


def test_messages_with_parts_take_their_images_by_index_or_in_order(run, tmp_path, image_bytes):
    red, blue = image_bytes("red"), image_bytes("blue")
    images = [struct(red), struct(blue)]
    answer = {"role": "assistant", "content": [part("Yes.")]}

    def row(*parts, images=images):
        return {"messages": [{"role": "user", "content": list(parts)}, answer], "images": images}

    rows = [
        row(part("Who wrote this book?\n"), part(index=0), images=images[:1]),
        row(part(index=1), part("after "), part(index=0), part("?")),
        row(part(), part("Same"), part()),
        row(part("No image"), images=None),
        row(part(index=0), part("?")),
        row(part(index=2), part("?")),
        row(part(), part("say <image>"), images=images[:1]),
        row(part("No place")),
        row({"index": None, "text": None, "type": "video"}),
    ]
    write(tmp_path / "data/p.parquet", rows, SCHEMAS["messages"])
    result = run()
    first, second = stored(red, ".jpg"), stored(blue, ".jpg")
    assert [(record.get("image"), values(record)[0][1]) for record in result.records] == [
        (first, "Who wrote this book?\n<image>"),
        ([second, first], "<image>\nafter <image>\n?"),
        ([first, second], "<image>\nSame\n<image>"),
        (None, "No image"),
        ([first, second], "<image>\n<image>\nNo place"),
    ]
    assert result.reasons == [
        ("row 4", "image_tokens"),
        ("row 5", "image_tokens"),
        ("row 6", "image_token_in_text"),
        ("row 8", "bad_turn"),
    ]


def test_messages_with_texts_in_the_format_of_trl_are_read(run, tmp_path, image_bytes):
    schema = pyarrow.schema(
        [("messages", list_of(role=TEXT, content=TEXT)), ("images", pyarrow.list_(pyarrow.binary()))]
    )
    turns = [("system", "Be brief."), ("user", "What?"), ("assistant", "Red.")]
    messages = [{"role": role, "content": content} for role, content in turns]
    write(tmp_path / "data/p.parquet", [{"messages": messages, "images": [image_bytes("red")]}], schema)
    result = run()
    assert values(result.records[0]) == [("system", "Be brief."), ("human", "<image>\nWhat?"), ("gpt", "Red.")]


def test_a_caption_is_the_answer_to_a_question_with_only_the_image(run, tmp_path, image_bytes):
    rows = [
        {"id": "a", "image": struct(image_bytes("red")), "caption": " A red square.\n"},
        {"id": "b", "image": None, "caption": "Nothing."},
        {"id": "c", "image": struct(image_bytes("red")), "caption": " "},
    ]
    write(tmp_path / "data/p.parquet", rows, SCHEMAS["caption"])
    result = run()
    assert values(result.records[0]) == [("human", "<image>"), ("gpt", "A red square.")]
    assert result.reasons == [("row 1", "no_image"), ("row 2", "no_caption")]


def test_the_file_suffix_is_that_of_the_image_format(run, tmp_path):
    from PIL import Image

    formats = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}
    files = []
    for name in formats:
        buffer = BytesIO()
        Image.new("RGB", (8, 8), "red").save(buffer, name)
        files.append(buffer.getvalue())
    rows = [{"id": "x", "image": struct(data, "wrong.jpg"), "caption": "c"} for data in files]
    write(tmp_path / "data/p.parquet", rows, SCHEMAS["caption"])
    wanted = [stored(data, suffix) for data, suffix in zip(files, formats.values(), strict=True)]
    assert [record["image"] for record in run().records] == wanted


def test_an_image_is_stored_once_across_files_and_a_rejected_row_stores_none(run, tmp_path, image_bytes):
    red = struct(image_bytes("red"))
    write(tmp_path / "data/a.parquet", [rated([red, red], [pair("q", "a")])], SCHEMAS["finevision"])
    rows = [rated([red], [pair("q", "a")]), rated([struct(image_bytes("blue")), struct(b"no")], [pair("q", "a")])]
    write(tmp_path / "data/b.parquet", rows, SCHEMAS["finevision"])
    result = run()
    assert result.records[0]["image"] == [stored(image_bytes("red"), ".jpg")] * 2
    assert list(contents(tmp_path / "images")) == [stored(image_bytes("red"), ".jpg")]


def test_a_damaged_row_group_is_rejected_row_by_row_and_the_next_is_read(run, tmp_path, image_bytes):
    rows = [{"id": str(n), "image": struct(image_bytes((n, 0, 0))), "caption": "c"} for n in range(12)]
    path = write(tmp_path / "data/p.parquet", rows, SCHEMAS["caption"], row_group_size=4, use_dictionary=False)
    with parquet.ParquetFile(path) as file:
        column = file.metadata.row_group(1).column(1)
        at = column.data_page_offset + column.total_compressed_size // 2
    data = bytearray(path.read_bytes())
    data[at : at + 40] = bytes(40)
    data[column.data_page_offset : column.data_page_offset + 8] = b"\xff" * 8
    path.write_bytes(data)
    result = run()
    assert result.code == 0
    assert [record["id"] for record in result.records] == [f"p/{n}" for n in (0, 1, 2, 3, 8, 9, 10, 11)]
    assert result.reasons == [(f"row {n}", "unreadable_row") for n in (4, 5, 6, 7)]
    assert "12 read = 8 written + 4 rejected" in result.out


def test_a_text_that_is_not_utf8_rejects_only_its_row(run, tmp_path, image_bytes):
    schema = pyarrow.schema([("id", TEXT), ("image", IMAGE), ("caption", pyarrow.binary())])
    rows = [{"id": "a", "image": struct(image_bytes("red")), "caption": text} for text in (b"one", b"\xff", b"three")]
    table = pyarrow.Table.from_pylist(rows, schema=schema)
    invalid = table["caption"].combine_chunks().view(pyarrow.string())  # without a check, as by some writers
    (tmp_path / "data").mkdir()
    parquet.write_table(table.set_column(2, "caption", invalid), tmp_path / "data/p.parquet")
    result = run()
    assert [values(record)[1][1] for record in result.records] == ["one", "three"]
    assert result.reasons == [("row 1", "not_utf8")]


@pytest.mark.parametrize("layout", SCHEMAS)
def test_columns_of_wrong_types_are_rejects(run, tmp_path, image_bytes, layout):
    """Every column of every layout is replaced with a number, a text, a list of either, and an object."""
    good = {"image": struct(image_bytes("red")), "images": [struct(image_bytes("red"))], "id": "x", "caption": "c"}
    good |= {"texts": [pair("q", "a")], "conversations": dialogue(("human", "<image>"), ("gpt", "a"))}
    good |= {"messages": [{"role": "user", "content": "q"}]}
    columns = {column: good[column] for column in SCHEMAS[layout].names if column in good}
    for number, (column, wrong) in enumerate(
        (column, wrong) for column in columns for wrong in (7, "x", [7], ["x"], {"a": 1}, [{"a": 1}])
    ):
        table = pyarrow.Table.from_pylist([{**columns, column: wrong}])
        path = tmp_path / f"data/{number}.parquet"
        path.parent.mkdir(exist_ok=True)
        parquet.write_table(table, path)
    result = run("--layout", layout)
    assert "Traceback" not in result.err
    files = len(list((tmp_path / "data").iterdir()))
    assert len(result.records) + len(result.rejects) == files
    # A number or a text is an id, and any text is a caption.
    assert len(result.records) == {"llava": 2, "caption": 3}.get(layout, 0)


def test_a_truncated_file_is_a_reject_and_is_converted_once_it_is_complete(run, tmp_path, image_bytes):
    row = {"id": "x", "image": struct(image_bytes("red")), "caption": "c"}
    for name in "ac":
        write(tmp_path / f"data/{name}.parquet", [row], SCHEMAS["caption"])
    whole = write(tmp_path / "data/b.parquet", [row] * 40, SCHEMAS["caption"]).read_bytes()
    for size in (0, 3, 4, 11, 12, len(whole) // 2, len(whole) - 1):
        (tmp_path / "data/b.parquet").write_bytes(whole[:size])
        result = run()
        assert result.code == 2
        assert f"1 of 3 files cannot be read to the end ({tmp_path / 'data/b.parquet'})" in result.err
        assert "Traceback" not in result.err
        assert [record["id"] for record in result.records] == ["a/x", "c/x"]
        (reject,) = result.rejects
        assert (reject["file"], reject["reason"]) == ("b.parquet", "unreadable_file")
        assert "check that the download is complete" in reject["detail"]
        assert "3 files: 3 read = 2 written + 1 rejected" in result.out
    again = run()
    assert (again.code, again.out.count("finished earlier")) == (2, 3)
    (tmp_path / "data/b.parquet").write_bytes(whole)
    result = run()
    assert (result.code, result.rejects, len(result.records)) == (0, [], 42)
    assert result.out.count("finished earlier") == 2


def test_arguments_that_do_not_fit_the_file_are_refused(run, tmp_path, image_bytes):
    row = {"bild": image_bytes("red"), "text": "A red square."}
    path = tmp_path / "data/a.parquet"
    path.parent.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    for more, message in [
        (
            (),
            "has the columns bild, text, which match none of the layouts finevision, cauldron, llava, messages",
        ),
        (
            ("--layout", "caption"),
            "has no column 'images' or 'image', which the layout caption requires, only bild",
        ),
        (
            ("--layout", "caption", "--columns", "image=x"),
            "has no column 'x', which --columns gives, only bild, text; correct --columns",
        ),
        (("--columns", "text=text"), "--columns text=text requires --layout"),
        (("--columns", "bild"), "--columns is 'bild', expected role=name"),
        (("--columns", "picture=bild"), "--columns names the role 'picture', expected one of id, image, text"),
        (("--columns", "image=bild", "image=x"), "--columns gives image twice"),
        (("--min_rating", "a=much"), "--min_rating is 'a=much', expected column=n with a whole number n"),
    ]:
        result = run(*more)
        assert result.code == 2, more
        assert message in result.err
    named = ("--layout", "caption", "--columns", "image=bild", "text=text")
    assert "--min_rating requires finevision" in run(*named, "--min_rating", "a=3").err
    assert len(run(*named).records) == 1
    write(path, [rated([], [pair("q", "a")])], SCHEMAS["finevision"])
    assert "has no column 'quality' for --min_rating" in run("--min_rating", "quality=3", "--overwrite").err


def test_two_files_with_one_output_are_refused(run, preprocess, tmp_path, image_bytes):
    row = {"id": "a", "image": struct(image_bytes("red")), "caption": "c"}
    paths = [write(tmp_path / name / "a.parquet", [row], SCHEMAS["caption"]) for name in ("one", "two")]
    arguments = ["--output_jsonl_dir", tmp_path / "jsonl", "--output_image_dir", tmp_path / "images"]
    result = preprocess("parquet", "--input", *paths, *arguments, into=tmp_path / "jsonl")
    assert result.code == 2
    assert "would both be written to" in result.err


def test_files_and_nested_folders_are_read_in_order_of_name(run, tmp_path, image_bytes):
    row = {"id": "a", "image": struct(image_bytes("red")), "caption": "c"}
    for name in ("b/train-00001.parquet", "b/train-00000.parquet", "a.parquet"):
        write(tmp_path / "data" / name, [row], SCHEMAS["caption"])
    assert [record["id"] for record in run().records] == ["a/a", "b/train-00000/a", "b/train-00001/a"]
    assert [record["id"] for record in run(source=tmp_path / "data/a.parquet", out=tmp_path / "x").records] == ["a/a"]
    (tmp_path / "empty").mkdir()
    assert "which has no .parquet files; give the folder that contains them" in run(source=tmp_path / "empty").err
    expected = "which does not exist; expected a .parquet file, or a folder with such files; check the path"
    assert expected in run(source=tmp_path / "nowhere").err


def mixture(image_bytes, rows):
    """Rows of each kind: shared, several, broken and missing images."""
    choose = random.Random(0)
    images = [image_bytes((n * 9, 0, 0), choose.choice(["JPEG", "PNG"])) for n in range(20)] + [b"broken"]
    return [
        rated([struct(choose.choice(images)) for _ in range(choose.choice([0, 1, 1, 1, 2]))], [pair(f"q{n}", "a")])
        for n in range(rows)
    ]


@pytest.mark.slow
def test_a_rerun_after_a_kill_at_any_step_gives_the_bytes_of_an_uninterrupted_run(run, tmp_path, image_bytes):
    for name in ("a", "b"):
        write(tmp_path / f"data/{name}.parquet", mixture(image_bytes, 12), SCHEMAS["finevision"])
    run()
    out, images = tmp_path / "jsonl", tmp_path / "images"
    whole = contents(out), contents(images)
    arguments = ["parquet", "--input", tmp_path / "data", "--output_jsonl_dir", out, "--output_image_dir", images]
    for step in (1, 2, 5, 9, 14, 20, 30, 36):
        shutil.rmtree(out)
        shutil.rmtree(images)
        assert killed_at(step, [str(argument) for argument in arguments]), step
        assert run().code == 0
        assert (contents(out), contents(images)) == whole


def row_of(layout, number, images):
    """A row in each published layout, and the texts of its turns."""
    question, answer = f"What is {number}?", f"It is {number}."
    if layout in ("finevision", "cauldron"):
        texts = [pair(question, answer), pair("Sure?", "Yes.")]
        row = rated(images, texts) if layout == "finevision" else {"images": images, "texts": texts}
        return row, [question, answer, "Sure?", "Yes."]
    one = {"id": f"n{number}", "image": images[0] if images else None}
    if layout == "llava":
        first = f"<image>\n{question}" if images else question
        return {**one, "conversations": dialogue(("human", first), ("gpt", answer))}, [question, answer]
    if layout == "messages":
        user = [*(part(index=place) for place in range(len(images))), part(question)]
        messages = [{"role": "user", "content": user}, {"role": "assistant", "content": [part(answer)]}]
        return {"messages": messages, "images": images}, [question, answer]
    return {**one, "caption": answer}, ["", answer]


@pytest.mark.slow
@pytest.mark.parametrize("layout", SCHEMAS)
def test_written_records_equal_those_read_by_the_datasets_package(run, tmp_path, image_bytes, layout):
    datasets = pytest.importorskip("datasets")
    from PIL import Image, ImageChops

    choose = random.Random(1)
    files = [struct(image_bytes((n * 9, 0, 0), choose.choice(["JPEG", "PNG"]))) for n in range(20)]
    least, most = (1, 1) if layout == "caption" else (0, 1) if layout == "llava" else (0, 3)
    made = [row_of(layout, n, choose.choices(files, k=choose.randint(least, most))) for n in range(40)]
    write(tmp_path / "data/a.parquet", [row for row, _ in made], SCHEMAS[layout], row_group_size=16)
    result = run()
    assert f"layout {layout}" in result.out
    assert (result.code, len(result.records), result.rejects) == (0, 40, [])
    features = datasets.Features.from_arrow_schema(SCHEMAS[layout])
    column = "images" if "images" in features else "image"
    features[column] = datasets.List(datasets.Image()) if column == "images" else datasets.Image()
    read = datasets.Dataset.from_parquet(
        str(tmp_path / "data/a.parquet"), cache_dir=str(tmp_path / "cache"), features=features
    )
    assert len(read) == len(result.records)
    for row, record, (_, texts) in zip(read, result.records, made, strict=True):
        paths = record.get("image", [])
        written = [Image.open(tmp_path / "images" / path) for path in ([paths] if isinstance(paths, str) else paths)]
        theirs = row[column] if isinstance(row[column], list) else [row[column]] if row[column] else []
        assert len(written) == len(theirs)
        for ours, their in zip(written, theirs, strict=True):
            assert ours.format == their.format
            assert ImageChops.difference(ours.convert("RGB"), their.convert("RGB")).getbbox() is None
        assert [
            text.removeprefix("<image>" + "\n<image>" * (len(written) - 1)).lstrip("\n") for _, text in values(record)
        ] == texts


def test_the_main_job_reads_the_written_records(run, tmp_path, image_bytes, make_config):
    """One image, none, and a caption; images are checked by decoding them."""
    turns = [pair("What is it?", "A red square."), pair("Sure?", "Yes.")]
    rows = [rated([struct(image_bytes("red"))], turns), rated([], turns)]
    write(tmp_path / "data/a.parquet", rows, SCHEMAS["finevision"])
    row = {"id": "b", "image": struct(image_bytes("blue", "PNG")), "caption": "A blue square."}
    write(tmp_path / "data/b.parquet", [row], SCHEMAS["caption"])
    assert run("--image_prefix", "fv/images", images=tmp_path / "parent/fv/images").code == 0
    config = make_config(
        setup__input_dir=str(tmp_path / "jsonl"),
        dataset__image_dir=str(tmp_path / "parent"),
        dataset__check_images="decode",
    )
    outcome = create(config)
    assert (outcome.params["counts"]["written"], outcome.params["counts"]["rejected"]) == (3, 0)


@with_real_excerpts
def test_a_real_file_with_image_bytes_is_read_by_naming_its_columns(run, tmp_path):
    path = SHARED / "raw/parquet/data-juicer_demo-dataset-images-bytes.parquet"
    named = ("--layout", "caption", "--columns", "image=image_bytes", "text=text")
    result = run(*named, source=path)
    rows = parquet.read_table(path).to_pylist()
    assert len(result.records) == len(rows) == 3
    for row, record in zip(rows, result.records, strict=True):
        paths = [record["image"]] if isinstance(record["image"], str) else record["image"]
        assert [(tmp_path / "images" / path).read_bytes() for path in paths] == row["image_bytes"]
        assert values(record)[1] == ("gpt", row["text"].strip())
    refused = run(source=SHARED / "raw/parquet/img2dataset_sample_image.parquet")
    assert "has the columns url, txt, sha256hash, which match none of the layouts" in refused.err
    assert json.loads((tmp_path / "jsonl" / f"{path.stem}.jsonl.receipt").read_text())["counts"]["images"] == 3
