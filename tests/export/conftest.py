import pytest

from mendiff.cli import main
from tests.commands import data, model, refused, run  # noqa: F401  # fixtures


@pytest.fixture(scope="session")
def exported(model):  # noqa: F811
    """An exported GLAD. torch's exporter takes ten seconds or more, so most tests share this folder."""
    out = model.parent / "exported"
    assert main(["export", str(model), "-o", str(out)]) == 0
    return out
