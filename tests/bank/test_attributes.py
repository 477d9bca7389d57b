"""Tables of attributes and conditions on them."""

from __future__ import annotations

import pickle
import re
import time
from pathlib import Path

import pytest
from helpers.errors import refuses

from latentpatch.bank.attributes import read_attributes
from latentpatch.bank.predicate import parse_predicate
from latentpatch.errors import FileError


def table(folder: Path, text: str | bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- Tables ------------------------------------------------------------------------------------


def test_rows_are_keyed_by_id(tmp_path: Path) -> None:
    rows = read_attributes(table(tmp_path, "file,id,sex\nx.png,a,female\ny.png,b,\n"))
    assert rows == {
        "a": {"file": "x.png", "id": "a", "sex": "female"},
        "b": {"file": "y.png", "id": "b", "sex": ""},
    }


@pytest.mark.parametrize(
    ("header", "row", "key"),
    [
        ("sex,file", "male,folder/x.y.png", "x.y"),
        ("sex,filename", "male,x.png", "x"),
        ("sex,image", "male,x.jpeg", "x"),
        ("sex,path", "male,a/b/x", "x"),
        ("name,sex", "x.png,male", "x"),
        ("path,file", "a.png,b.png", "b"),
    ],
)
def test_without_id_the_stem_of_a_path_is_the_key(tmp_path: Path, header: str, row: str, key: str) -> None:
    assert list(read_attributes(table(tmp_path, f"{header}\n{row}\n"))) == [key]


def test_dialects(tmp_path: Path) -> None:
    text = '\ufeffid , note\r\n\r\na, "x, ""y""\nz"\r\nb,é\r\n'
    assert read_attributes(table(tmp_path, text)) == {
        "a": {"id": "a", "note": 'x, "y"\nz'},
        "b": {"id": "b", "note": "é"},
    }


@pytest.mark.parametrize(
    "text",
    [
        "id;age;note\na;20,5;x, y\n",
        "id\tage\tnote\na\t20,5\tx, y\n",
        "sep=;\r\nid;age;note\r\na;20,5;x, y\r\n",
        'SEP=|\nid|age|note\na|20,5|"x, y"\n',
        "id;age;note;;\na;20,5;x, y;;\n",
        'id,age,note,,\na,"20,5","x, y",,\n',
        'id,age,note\na,"20,5","x, y",,\n',
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path: Path, text: str) -> None:
    """Defect P27: semicolons and empty trailing columns were refused."""
    assert read_attributes(table(tmp_path, text)) == {"a": {"id": "a", "age": "20,5", "note": "x, y"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("id,sex,,\na,male,,x\n", r"line 2: values must be 2.* got 4"),
        ("\n\n", "empty"),
        ("id,sex\n", "only a header"),
        ("id,sex\na,male\nb\n", r"line 3: values must be 2.* got 1"),
        ("id,sex\na,male,x\n", r"line 2: values must be 2.* got 3"),
        ("id,sex\na,male\nb,male\na,male\n", r"line 4: 'a' has a row already, in line 2"),
        ("file\nd/a.png\n./d/a.png\n", r"line 3: 'd/a.png' has a row already, in line 2"),
        ("id,sex\n,male\n", r"line 2: the name of the image is missing"),
        ("id,sex,sex\na,male,male\n", r"column 'sex' comes twice"),
        ('id,sex\na,"male\n', r"line 2: not readable as CSV"),
        (b"id,sex\na,\xff\n", "not a CSV file in UTF-8"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(FileError, match=message) as caught:
        read_attributes(path)
    assert caught.value.path == path


def test_tables_of_many_columns_take_no_longer_than_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "wide.csv").write_text(f"id,{','.join(map(str, range(100_000)))}\na{',' * 100_000}\n")
    start = time.monotonic()
    assert len(read_attributes(tmp_path / "wide.csv")["a"]) == 100_001
    assert time.monotonic() - start < 10  # compared with one another, the columns took minutes


def test_unreadable_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.csv: cannot be read: No such file"):
        read_attributes(tmp_path / "none.csv")
    with pytest.raises(FileError, match="cannot be read: Is a directory"):
        read_attributes(tmp_path)


# --- Conditions --------------------------------------------------------------------------------

ROW = {"sex": "female", "birth_year": "1980", "height": "1.70", "town": "New York", "note": "", "say": "it's"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sex=female", True),
        ("sex == female", True),
        ("sex=Female", False),
        ("sex!=female", False),
        ("sex != male", True),
        ("birth_year=1980.0", True),
        ("birth_year='1980'", True),
        ("birth_year=1.98e3", True),
        ("height = 1.7", True),
        ("height!=1.7", False),
        ("birth_year<1980", False),
        ("birth_year<=1980", True),
        ("birth_year>1979", True),
        ("birth_year >= 1981", False),
        ("birth_year>-5", True),
        ("birth_year < 10000", True),
        ("town='New York'", True),
        ('"town" = "New York"', True),
        ('say="it\'s"', True),
        ("sex>1", False),
        ("sex<1", False),
        ("note<1", False),
        ("note>=0", False),
        ("missing<1", False),
        ("missing>=0", False),
        ("note=0", False),
        ("missing=x", False),
        ("missing!=x", True),
        ('note=""', True),
        ("missing=''", True),
        ('sex=""', False),
        ('sex!=""', True),
        ("sex=male or sex=female and birth_year=1980", True),
        ("sex=female or sex=male and birth_year=1", True),
        ("(sex=female or sex=male) and birth_year=1", False),
        ("not sex=male and not birth_year=1", True),
        ("not (sex=female or birth_year=1)", False),
        ("not not sex=female", True),
        ("sex=male OR NOT sex=male", True),
        ("(((sex=female)))", True),
        ("(sex=female)and(birth_year=1980)", True),
    ],
)
def test_conditions(text: str, expected: bool) -> None:
    assert parse_predicate(text)(ROW) is expected


def test_long_numbers_are_not_confused() -> None:
    assert not parse_predicate("n=9007199254740993")({"n": "9007199254740992"})
    assert parse_predicate("n=nan")({"n": "nan"})  # text, not a number that differs from itself
    assert not parse_predicate("n=1e99999999999999999999")({"n": "1"})


def test_what_a_predicate_tells_about_itself() -> None:
    text = ' a=1 and (b = "x" or not c<3)'
    predicate = parse_predicate(text)
    assert str(predicate) == text
    assert predicate.names == {"a", "b", "c"}
    assert predicate == parse_predicate(text)
    with pytest.raises(AttributeError):
        predicate.text = "other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(predicate))({"a": "1", "c": "4", "b": "x"})


def test_many_terms() -> None:
    assert parse_predicate(" or ".join(f"n={i}" for i in range(5000)))({"n": "4999"})


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("", 1, "the name of an attribute"),
        ("   ", 1, "the name of an attribute"),
        ("sex", 4, "one of = != < <= > >="),
        ("sex=", 5, "a value"),
        ("=x", 1, "the name of an attribute"),
        ("sex=male and", 13, "the name of an attribute"),
        ("sex=male or or sex=x", 13, "the name of an attribute"),
        ("sex=and", 5, "a value"),
        ("sex=New York", 9, "'and', 'or' or the end"),
        ("sex=male)", 9, "'and', 'or' or the end"),
        ("(sex=male", 10, "'and', 'or' or '\\)'"),
        ("sex<male", 5, "a number"),
        ("year>=''", 7, "a number"),
        ('sex="male', 5, "a closing quote"),
        ("sex!male", 4, "a name, value or operator"),
        ("sex=<=x", 5, "a value"),
        ("not", 4, "the name of an attribute"),
        ("__import__('os')", 11, "one of ="),
        ("(" * 3000 + "a=1" + ")" * 3000, 102, "nesting"),
        ("not " * 3000 + "a=1", 405, "nesting"),
    ],
)
def test_malformed_conditions_say_where_and_what(text: str, position: int, expected: str) -> None:
    with refuses("where") as caught:
        parse_predicate(text)
    assert re.search(rf"{expected}.* at position {position} ", caught.value.constraint)
    assert caught.value.value == text
