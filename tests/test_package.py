"""What the wheel carries."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "mendiff"
LARGEST_WHEEL = 10_000_000


def test_wheel_stays_under_ten_megabytes():
    """Weights hardly shrink when they are packed, so the sum of the files is the wheel's size, or more."""
    files = [one for one in PACKAGE.rglob("*") if one.is_file() and "__pycache__" not in one.parts]
    assert len(files) > 100
    assert sum(one.stat().st_size for one in files) < LARGEST_WHEEL
