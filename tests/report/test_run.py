import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mendiff.errors import InputError
from mendiff.report.contents import CategoryReport, ImageRow, Pictures, Report, Strip, TypeRow
from mendiff.report.run import VERSION, read_run, write_run

PICTURE = b"RIFF\x04\x00\x00\x00WEBP"
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=()), max_size=20)


@pytest.fixture
def run(tmp_path, report) -> Path:
    write_run(tmp_path / "run", report)
    return tmp_path / "run"


def change(run: Path, **fields: object) -> None:
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**content, **fields}))


def test_a_run_reads_back_equal(run, report) -> None:
    assert read_run(run) == report


def test_strips_come_back_and_an_earlier_run_has_none(tmp_path, report, category, strips) -> None:
    both = [replace(category, strips=strips[:1]), replace(category, name="tile", strips=strips)]
    write_run(tmp_path / "own", replace(report, categories=both))
    assert read_run(tmp_path / "own").categories == both
    content = json.loads((tmp_path / "own/run.json").read_text())
    for one in content["categories"]:
        del one["strips"]
    change(tmp_path / "own", categories=content["categories"])
    assert [one.strips for one in read_run(tmp_path / "own").categories] == [[], []]


def reports() -> st.SearchStrategy[Report]:
    pictures = st.builds(
        Pictures,
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        *[st.just(PICTURE)] * 3,
        st.sampled_from([None, PICTURE]),
    )
    steps = st.none() | st.integers(0, 1000)
    images = st.builds(ImageRow, TEXT, st.none() | TEXT, NUMBERS, pictures, st.none() | NUMBERS, steps)
    points = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=3)
    kinds = st.builds(TypeRow, TEXT, st.integers(0, 99), st.integers(0, 99), NUMBERS, NUMBERS)
    ways = st.builds(Strip, TEXT, TEXT, st.tuples(st.integers(1, 9), st.integers(1, 9)), st.just(PICTURE))
    metrics = st.dictionaries(TEXT, st.none() | NUMBERS, max_size=3)
    curves = st.dictionaries(TEXT, points, max_size=2)
    categories = st.builds(
        CategoryReport,
        TEXT,
        NUMBERS,
        st.lists(images, max_size=3),
        metrics,
        curves,
        st.lists(kinds, max_size=2),
        st.lists(ways, max_size=2),
    )
    info = st.dictionaries(TEXT, st.none() | TEXT | NUMBERS | st.lists(TEXT, max_size=2), max_size=3)
    result = st.fixed_dictionaries(
        {"mean": metrics, "categories": st.dictionaries(TEXT, metrics, max_size=2)}
    )
    return st.builds(Report, TEXT, TEXT, st.lists(categories, max_size=2), result, info)


@given(report=reports())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_run_reads_back_equal(tmp_path, report) -> None:
    folder = tmp_path / "run"
    write_run(folder, report)
    assert read_run(folder) == report
    shutil.rmtree(folder)


def test_other_files_in_the_folder_do_not_matter(run, report) -> None:
    (run / "report.html").write_text("a page")
    (run / "pictures" / "notes.txt").write_text("mine")
    assert read_run(run) == report


def test_an_empty_folder_is_filled_and_a_full_one_left_alone(tmp_path, report) -> None:
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "empty", report)
    assert read_run(tmp_path / "empty") == report

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="expected a new or empty folder"):
        write_run(tmp_path / "full", report)
    assert sorted(path.name for path in tmp_path.rglob("notes.txt")) == ["notes.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"]


def test_what_cannot_be_written_whole_leaves_nothing(tmp_path, report, category) -> None:
    broken = replace(report, categories=[replace(category, threshold=float("nan"))])

    with pytest.raises(InputError, match="expected finite numbers"):
        write_run(tmp_path / "run", broken)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (shutil.rmtree, "there is no such folder"),
        (lambda run: (run / "run.json").unlink(), "it holds no run.json"),
        (lambda run: (run / "run.json").write_text("{"), "run.json is damaged"),
        (lambda run: (run / "run.json").write_text("[1]"), "its run.json was not written by mendiff"),
        (lambda run: change(run, format="mendiff"), "its run.json was not written by mendiff"),
        (
            lambda run: change(run, version=VERSION + 1),
            f"expected a run of version {VERSION} or older, got version {VERSION + 1}",
        ),
        (lambda run: change(run, categories=[{}]), "run.json is damaged"),
        (lambda run: change(run, categories=7), "run.json is damaged"),
        (lambda run: change(run, metrics=[]), "run.json is damaged"),
        (lambda run: change(run, title=None), "expected text, got None"),
        (lambda run: (run / "pictures" / "00002-heat.webp").unlink(), "pictures/00002-heat.webp is missing"),
        (
            lambda run: (run / "pictures" / "00002-heat.webp").write_bytes(PICTURE[:9]),
            "expected a whole WebP picture",
        ),
        (
            lambda run: (run / "pictures" / "00000-input.webp").write_bytes(b"<svg onload=alert(1)></svg>"),
            "expected a whole WebP picture",
        ),
    ],
)
def test_what_is_no_whole_run_is_refused_in_one_sentence(run, damage, sentence) -> None:
    damage(run)
    with pytest.raises(InputError) as refusal:
        read_run(run)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("score", "high"),
        ("score", float("nan")),
        ("score", True),
        ("p_value", "0.1"),
        ("stop_step", [3]),
        ("label", 3),
        ("size", [0, 5]),
        ("size", [5]),
        ("pictures", ["input"]),
        ("pictures", 3),
    ],
)
def test_a_damaged_image_is_refused(run, field, value) -> None:
    content = json.loads((run / "run.json").read_text())
    content["categories"][0]["images"][1][field] = value
    (run / "run.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        read_run(run)


def test_no_picture_is_read_from_outside_of_the_run(run, tmp_path) -> None:
    (tmp_path / "secret.webp").write_bytes(PICTURE)
    content = json.loads((run / "run.json").read_text())
    content["categories"][0]["images"][0]["pictures"] = ["../../secret", "input", "reconstruction", "heat"]
    (run / "run.json").write_text(json.dumps(content))

    own = read_run(run).categories[0].images[0].pictures

    assert PICTURE not in (own.input, own.reconstruction, own.heat, own.contour)
