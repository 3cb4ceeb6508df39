import fcntl
import os
import shutil

import pytest

from mendiff.cli import main
from tests.commands import data, refused, run  # noqa: F401  # fixtures
from tests.commands import model as fitted  # noqa: F401


@pytest.fixture(scope="session")
def model(exported):
    """The fitted GLAD that is exported."""
    return exported.parent / "model"


@pytest.fixture(scope="session")
def exported(fitted, tmp_path_factory):  # noqa: F811
    """An exported GLAD. torch's exporter takes ten seconds, so tests and workers share this folder."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-export"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "exported").exists():
            shutil.copytree(fitted, shared / "model")
            assert main(["export", str(shared / "model"), "-o", str(shared / "exported")]) == 0
    return shared / "exported"
