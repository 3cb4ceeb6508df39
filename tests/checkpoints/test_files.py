import hashlib
import math
import re
from pathlib import Path

import pytest

import mendiff
from mendiff.checkpoints.files import (
    as_json,
    fingerprint,
    fingerprint_of_files,
    is_whole,
    parse_json,
    read_json,
    sealed,
    sha256_of,
    sha256_of_json,
    write_json,
)
from mendiff.errors import InputError


def test_a_files_hash_is_that_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "some").write_bytes(content)
    assert sha256_of(tmp_path / "some") == hashlib.sha256(content).hexdigest()
    assert sha256_of(str(tmp_path / "some")) == hashlib.sha256(content).hexdigest()


def test_a_fingerprint_depends_on_what_is_there_and_how_often_but_not_on_the_order():
    assert fingerprint([3, 1, 2]) == fingerprint([1, 2, 3])
    different = [[1, 2, 3], [1, 2], [1, 2, 2, 3], [12, 3], [1, 23], [], [""]]
    assert len({fingerprint(one) for one in different}) == len(different)


def test_files_are_known_by_their_content_alone(tmp_path):
    for name, content in (("a", b"one"), ("b", b"two"), ("c", b"one"), ("d", b"three")):
        (tmp_path / name).write_bytes(content)
    a, b, c, d = (tmp_path / name for name in "abcd")
    assert fingerprint_of_files([a, b]) == fingerprint_of_files([b, c])
    assert fingerprint_of_files([a, b]) != fingerprint_of_files([a, d])


# JSON.


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_has_not_is_never_written(tmp_path, value):
    for content, place in (
        ({"a": [{"b": value}]}, " as a.0.b"),
        ({"a": 1.0, "b": (1, (2, value))}, " as b.1.1"),
        ([value], " as 0"),
        (value, ""),
    ):
        with pytest.raises(
            InputError, match=f"numbers: expected finite numbers to write, got {value}{place}.$"
        ):
            as_json(content, "numbers")
        with pytest.raises(InputError, match=f"{tmp_path}/x.json: expected finite"):
            write_json(tmp_path / "x.json", content)
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_what_is_read(tmp_path):
    content = {"words": "drei Äpfel \ud800", "numbers": [1, -2.5, 1e-300, 2**63 - 1, None, True], "more": {}}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    assert parse_json(as_json(content, "x"), "x") == content


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": NaN}', "got NaN as a number"),
        ('{"a": [Infinity]}', "got Infinity as a number"),
        ('{"a": -Infinity}', "got -Infinity as a number"),
        ('{"a": 1e999}', "got the number 1e999, which is too large"),
        ('{"a": -' + "9" * 400 + "}", "got a whole number of 400 digits, which is too large"),
        ('{"a": ' + "9" * 5000 + "}", "got a whole number of 5000 digits, which is too large"),
        ('{"a": 9223372036854775808}', "got a whole number of 19 digits"),
        ('{"a": 1', "damaged"),
        ("", "damaged"),
        ("{" * 100_000, "damaged"),
        ('["a"]', "a JSON object, got a list"),
        ("3", "a JSON object, got a int"),
    ],
)
def test_json_that_nothing_can_be_computed_with_is_refused(tmp_path, text, reason):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=f"x.json: expected .*{reason}"):
        read_json(tmp_path / "x.json")


def test_json_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "x.json").write_bytes('{"a": "Äpfel"}'.encode("latin-1"))
    with pytest.raises(InputError, match="damaged"):
        read_json(tmp_path / "x.json")


def test_a_sealed_object_shows_any_change_of_its_content():
    content = {"b": [1, 2.5, {"c": None}], "a": "x", 3: (1, 2)}
    whole = parse_json(as_json(sealed(content, "it"), "it"), "it")
    assert is_whole(whole)
    assert is_whole(dict(reversed(whole.items())))
    for change in ({"a": "y"}, {"b": []}, {"d": 1}, {"sha256": ""}, {"sha256": None}):
        assert not is_whole(whole | change)
    assert not is_whole({key: value for key, value in whole.items() if key != "a"})


def test_the_hash_of_plain_data_is_that_of_what_json_says():
    assert sha256_of_json({"a": (1, 2), "b": 1.0}, "it") == sha256_of_json({"b": 1.0, "a": [1, 2]}, "it")
    assert sha256_of_json({"a": 1}, "it") != sha256_of_json({"a": 2}, "it")


def test_nothing_else_in_the_package_writes_or_reads_json():
    """Python's own functions write NaN and read numbers of any size."""
    package = Path(mendiff.__file__).parent
    calls = re.compile(r"\bjson\.(dumps?|loads?)\(|from json import")
    others = [path for path in package.rglob("*.py") if path != package / "data/json_text.py"]
    assert len(others) > 100
    assert [str(path) for path in others if calls.search(path.read_text(encoding="utf-8"))] == []
