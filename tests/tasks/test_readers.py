"""What a file says is what a row says, in training and in `predict`: text stays text unless the task says otherwise."""

from __future__ import annotations

import gzip
import json
import pickle
import re
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperpelt import Example, Files, Splits, Task, UserError
from hyperpelt.tasks import json_rows
from hyperpelt.tasks.asked import read_asked
from hyperpelt.tasks.readers import FileRows, read_file
from hyperpelt.tasks.sources import Source
from hyperpelt.tasks.yaml import load_yaml

ONLY_TRAIN = Splits(validation=None, test=None)
# Texts that look like something else: dates, numbers, missing values, truth, formulas, quotes.
LOOKALIKES = (
    "2012-01-03", "2012-01-03T00:00:00Z", "12:30", "01232", "1.20", "1e5", "+7", "0x1F", "1_000", "1,000", "inf", "nan",
    "NA", "N/A", "null", "None", "true", "TRUE", "yes", " padded ", "'quoted'", "", "-0", "3.", "1.0", "9" * 30,
)  # fmt: skip

CHARACTERS = st.characters(exclude_categories=("Cs",), exclude_characters="\x00\r")


def task_on(source: Source, column: str = "text", **fields: Any) -> Task:
    return Task(
        name="my/task",
        source=source,
        render=lambda row: Example(input=f"say: {row[column]}", label=row["label"]),
        choices=("no", "yes"),
        splits=ONLY_TRAIN,
        **fields,
    )


def write(file: Path, values: list[Any]) -> Path:
    """Rows of the columns text and label in a file of the kind that its name says."""
    rows = [{"text": value, "label": number % 2} for number, value in enumerate(values)]
    if file.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows, indent=1), encoding="utf8")
    else:
        import pandas

        options = {"sep": "\t", "quoting": 3} if file.suffix == ".tsv" else {}
        pandas.DataFrame(rows).to_csv(file, index=False, **options)
    return file


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty: expected a line of column names"),
        ("text\nr\u00e9clam\u00e9\n".encode("cp1252"), "it is not UTF-8 (byte 0xe9 at "),
        ("text\nhello\n".encode("utf-16"), "it is not UTF-8 (byte 0xff at 0)"),
    ],
)
def test_a_file_that_is_empty_or_of_another_encoding_says_so(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(told)):
        read_file(tmp_path / "rows.csv", "csv", {})


@pytest.mark.parametrize("packed", [False, True])
def test_lines_of_jsonl_are_read_where_they_stand(tmp_path: Path, packed: bool) -> None:
    long = b"x" * 90_000
    lines = [b'\xef\xbb\xbf{"a": "\xc3\xa4", "b": 1}\r', b"", b'  {"b": [2]}', b'{"c": null, "a": "%s"}' % long]
    file = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    file.write_bytes(gzip.compress(b"\n".join(lines)) if packed else b"\n".join(lines))
    values = [("ä", 1, None), (None, [2], None), (long.decode(), None, None)]
    expected = [dict(zip("abc", row, strict=True)) for row in values]
    rows: Any = read_file(file, "jsonl", {})
    assert [*rows] == expected
    assert rows[-1] == expected[2]
    assert rows[0:2] == expected[:2]
    assert [*pickle.loads(pickle.dumps(rows.select([2, 0])))] == [expected[2], expected[0]]


def test_a_file_that_changes_under_its_rows_is_noticed(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", ["one", "two"])
    rows = read_file(file, "jsonl", {})
    assert rows[0]["text"] == "one"
    with file.open("a", encoding="utf8") as more:
        more.write('{"text": "three", "label": 0}\n')
    with pytest.raises(UserError, match=r"rows.jsonl changed while it was being read: start again"):
        rows[1]


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_text_is_the_same_in_the_file_in_training_and_in_predict(tmp_path: Path, kind: str) -> None:
    file = write(tmp_path / f"rows.{kind}", list(LOOKALIKES))
    task = task_on(Files({"train": file.name}, base=tmp_path))
    expected = [f"say: {text}" for text in LOOKALIKES]
    assert [example.input for example in task.examples("train")] == expected
    assert [example.label for example in task.examples("train")] == [n % 2 for n in range(len(LOOKALIKES))]
    assert [asked.example and asked.example.input for asked in read_asked(task, file)] == expected


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["csv", "json", "jsonl", "parquet"]),
    texts=st.lists(st.text(CHARACTERS, max_size=8), min_size=1, max_size=4),
)
def test_any_text_survives_every_format(tmp_path_factory: pytest.TempPathFactory, kind: str, texts: list[str]) -> None:
    file = write(tmp_path_factory.mktemp("any") / f"rows.{kind}", texts)
    rows = read_file(file, kind, {})
    assert [row["text"] for row in rows] == texts


@pytest.mark.parametrize(
    ("cells", "kind", "expected"),
    [
        (["07", " 8 "], "int", [7, 8]),
        (["1.20", "3"], "float", [1.2, 3.0]),
        (["True", "no"], "bool", [True, False]),
        (['["a", "b"]', "{}"], "json", [["a", "b"], {}]),
        (["1.20", "x"], "text", ["1.20", "x"]),
        (["", "1"], "int", [None, 1]),
    ],
)
def test_a_task_may_say_what_a_column_holds(tmp_path: Path, cells: list[str], kind: str, expected: list[Any]) -> None:
    file = write(tmp_path / "rows.csv", cells)
    task = Task(
        name="my/task",
        source=Files({"train": "rows.csv"}, base=tmp_path, types={"text": kind}),
        render=lambda row: Example(input=repr(row["text"]), label=row["label"]),
        choices=("no", "yes"),
        splits=ONLY_TRAIN,
    )
    in_lines = write(tmp_path / "rows.jsonl", list(cells))
    asked = [row.example for source in (file, in_lines) for row in read_asked(task, source)]
    found = [example and example.input for example in (*task.examples("train"), *asked)]
    assert found == 3 * [repr(value) for value in expected]


def test_what_is_no_value_of_its_type_is_named(tmp_path: Path) -> None:
    write(tmp_path / "rows.csv", ["7", "many"])
    task = task_on(Files({"train": "rows.csv"}, base=tmp_path, types={"text": "int"}))
    with pytest.raises(
        UserError, match=r"split train, row 1 of rows\.csv: column 'text' is 'many', expected int as its `types` say"
    ):
        list(task.examples("train"))
    with pytest.raises(UserError, match=r"Unknown type of column 'text': 'integer'\. Did you mean 'int'"):
        Files({"train": "rows.csv"}, types={"text": "integer"})


def test_yaml_says_types_and_formats_numbers(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("price,label\n3.14159,0\n1e1,1\n", encoding="utf8")
    text = """
name: my/{0}
source: {{files: {{train: rows.csv}}{1}}}
input: "{2}"
choices: [no, yes]
splits: {{train: train, validation: null, test: null}}
"""
    cases = [("raw", "", "{price}", ["3.14159", "1e1"]), ("format", "", "{price:.1f}", ["3.1", "10.0"])]
    cases.append(("typed", ", types: {price: float}", "{price}", ["3.14159", "10.0"]))
    for name, types, template, expected in cases:
        (tmp_path / "task.yaml").write_text(text.format(name, types, template), encoding="utf8")
        (task,) = load_yaml(tmp_path / "task.yaml")
        assert isinstance(task, Task)
        assert [example.input for example in task.examples("train")] == expected
        assert [row.example and row.example.input for row in read_asked(task, tmp_path / "rows.csv")] == expected


def test_predict_reads_a_table_with_the_options_of_the_tasks_own(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text;label\na, b;0\n", encoding="utf8")
    task = task_on(Files({"train": "rows.csv"}, base=tmp_path, options={"sep": ";"}))
    assert [example.input for example in task.examples("train")] == ["say: a, b"]
    (asked,) = read_asked(task, tmp_path / "rows.csv")
    assert asked.example is not None
    assert asked.example.input == "say: a, b"


def test_rows_that_would_be_shifted_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,0,\nb,1,\n", encoding="utf8")
    with pytest.raises(UserError, match=r"rows.csv: its first row has more fields than the header"):
        task_on(Files({"train": "rows.csv"}, base=tmp_path)).rows("train")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("text,label\na,0\nb,1,c\n", "line 3 has 3 fields, the header 2: a text with a separator in it is quoted"),
        ('text,label\na,0\n"b,1\nc,0\n', "a quote that opens in row 1 is never closed"),
        ("text,text,label\na,b,0\n", "its header names 'text' twice: give each column a name of its own"),
    ],
)
def test_a_table_that_is_none_says_why(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "rows.csv").write_text(content, encoding="utf8")
    with pytest.raises(UserError, match=told):
        task_on(Files({"train": "rows.csv"}, base=tmp_path)).rows("train")


def test_json_that_is_no_row_is_named_with_its_line(tmp_path: Path) -> None:
    for content, where in [
        ('{"text": "a"}\n["b"]\n', "line 2: expected a JSON object"),
        ('{"text": "a"}\n\n7', "line 3"),
    ]:
        (tmp_path / "rows.jsonl").write_text(content, encoding="utf8")
        with pytest.raises(UserError, match=where):
            read_file(tmp_path / "rows.jsonl", "jsonl", {})
    (tmp_path / "rows.json").write_text('{"data": {"rows": [{"text": "a"}]}}', encoding="utf8")
    assert list(read_file(tmp_path / "rows.json", "json", {"field": "data.rows"})) == [{"text": "a"}]
    with pytest.raises(UserError, match=r"no field 'data\.row'"):
        read_file(tmp_path / "rows.json", "json", {"field": "data.row"})


def test_a_key_that_a_line_lacks_is_null_and_numbers_stay_as_they_are(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt", encoding="utf8") as packed:
        packed.write('{"n": 1}\n{"n": 2.5, "label": 1}\n')
    rows = read_file(tmp_path / "rows.jsonl.gz", "jsonl", {})
    assert list(rows) == [{"n": 1, "label": None}, {"n": 2.5, "label": 1}]
    assert type(rows[0]["n"]) is int, "a column of mixed numbers is not made one of floats"


def test_images_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    from PIL import Image

    for folder, grey in (("dark", 10), ("light", 240)):
        (tmp_path / folder / "pics").mkdir(parents=True)
        Image.new("L", (4, 4), grey).save(tmp_path / folder / "pics" / "0.png")
        (tmp_path / folder / "rows.csv").write_text("image,label\npics/0.png,0\n", encoding="utf8")
        line = {"image": {"bytes": None, "path": "pics/0.png"}, "label": 0}
        (tmp_path / folder / "rows.jsonl").write_text(json.dumps(line), encoding="utf8")
    for kind in ("csv", "jsonl"):
        task = Task(
            name="my/seen",
            source=Files({"train": f"*/rows.{kind}"}, base=tmp_path),
            render=lambda row: Example(input="dark?", images=(row["image"],), label=row["label"]),
            choices=("no", "yes"),
            modalities=("text", "image"),
            splits=ONLY_TRAIN,
        )
        from hyperpelt.vision.images import load_image

        found = [load_image(example.images[0]).getpixel((0, 0)) for example in task.examples("train")]
        assert found == [(10, 10, 10), (240, 240, 240)]
        (asked,) = read_asked(task, tmp_path / "light" / f"rows.{kind}")
        assert asked.example is not None
        assert load_image(asked.example.images[0]).getpixel((0, 0)) == (240, 240, 240)


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (b"text::label\nso it is::1\n", {"sep": "::"}),
        (b"text::label\nso it is::1\n", {"sep": "::", "engine": "python"}),
        (b"text;label\nso it is;1\n", {"sep": None}),
        (b"text,label,\xe9\nso it is,1,2\n", {"encoding_errors": "replace"}),
    ],
)
def test_what_pandas_reads_in_another_way_is_read(tmp_path: Path, content: bytes, options: dict[str, Any]) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    (row,) = read_file(tmp_path / "rows.csv", "csv", options)
    assert (row["text"], row["label"]) == ("so it is", "1")
    (tmp_path / "rows.csv").write_bytes(content.replace(b"it is", b"it is, or::or;or"))
    if "encoding_errors" not in options:
        with pytest.raises(UserError, match="more fields than the header"):
            read_file(tmp_path / "rows.csv", "csv", options)


def test_lines_of_text_have_no_byte_order_mark_and_an_empty_file_has_none(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_bytes("\ufeffone\r\ntwo \ufeff\r\n".encode())
    assert [row["text"] for row in read_file(tmp_path / "rows.txt", "txt", {})] == ["one", "two \ufeff"]
    for empty in ("", "\ufeff"):
        (tmp_path / "rows.txt").write_bytes(empty.encode())
        assert len(read_file(tmp_path / "rows.txt", "txt", {})) == 0


def test_parquet_files_without_rows_stand_among_others(tmp_path: Path) -> None:
    for number, count in enumerate((2, 0, 1)):
        rows = {"text": [f"{number} {n}" for n in range(count)], "label": [0] * count}
        pq.write_table(
            pa.table(rows, schema=pa.schema({"text": pa.string(), "label": pa.int64()})), tmp_path / f"{number}.parquet"
        )
    examples = task_on(Files({"train": "*.parquet"}, base=tmp_path)).examples("train")
    assert [example.input for example in examples] == ["say: 0 0", "say: 0 1", "say: 2 0"]
    with pytest.raises(UserError, match="the split is empty"):
        task_on(Files({"train": "1.parquet"}, base=tmp_path)).examples("train")


def test_lines_are_read_in_pieces_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line may hold a picture, and 256 of those at once more than the memory."""
    rows = [{"text": "x" * (100 * n)} for n in (1, 1, 9, 1, 1, 1)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    monkeypatch.setattr(json_rows, "PIECE_BYTES", 300)
    sizes = list[int]()
    pread = json_rows.os.pread
    monkeypatch.setattr(json_rows.os, "pread", lambda fd, size, place: sizes.append(size) or pread(fd, size, place))
    assert list(read_file(tmp_path / "rows.jsonl", "jsonl", {})) == rows
    assert [size // 100 for size in sizes] == [2, 9, 2, 1]


def test_rows_of_thousands_of_files_are_found_without_looking_through_them() -> None:
    asked = [0]

    class Counted(list[dict[str, int]]):
        def __len__(self) -> int:
            asked[0] += 1
            return super().__len__()

    files = [(Counted([{"n": 3 * n + i} for i in range(n % 3)]), Path(f"{n}.jsonl")) for n in range(300)]
    rows = FileRows.of(files)
    expected = [{"n": 3 * n + i} for n in range(300) for i in range(n % 3)]
    asked[0] = 0
    assert [rows[place] for place in range(300)] == list(rows.select(range(300))) == list(rows) == expected
    assert rows[-1] == expected[-1]
    assert asked[0] < 20 * len(files)
    with pytest.raises(IndexError):
        rows[300]


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_key_that_only_another_file_has_is_null(tmp_path: Path, kind: str) -> None:
    for name, row in (("a", {"text": "a", "label": 1}), ("b", {"text": "b", "label": 0, "note": "n"})):
        (tmp_path / f"{name}.{kind}").write_text(json.dumps([row] if kind == "json" else row), encoding="utf8")
    rows = Files({"train": f"*.{kind}"}, base=tmp_path).read("train", None)
    expected = [{"text": "a", "label": 1, "note": None}, {"text": "b", "label": 0, "note": "n"}]
    assert list(rows) == list(rows.select([0, 1])) == expected
