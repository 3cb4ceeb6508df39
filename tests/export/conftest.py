import fcntl
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from mendiff.cli import main
from tests.commands import data, draw, picture, refused, run  # noqa: F401  # fixtures
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


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Files of several sizes and kinds, of which some show a defect."""
    folder = tmp_path_factory.mktemp("given") / "photos"
    draw(folder, 2, seed=5)
    draw(folder / "defective", 2, defect=12, seed=6)
    rng = np.random.default_rng(7)
    Image.fromarray(np.kron(picture(rng), np.ones((3, 5, 1), np.uint8))).save(folder / "oblong.png")
    Image.fromarray(picture(rng)[:32, :32]).save(folder / "same.png")
    Image.fromarray(picture(rng)[..., 0]).save(folder / "grey.jpg")
    return sorted(path for path in folder.rglob("*.*") if path.is_file())
