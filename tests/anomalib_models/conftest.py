"""A folder of parts, and a model fitted to it."""

from pathlib import Path

import numpy as np
import pytest

from mendiff.anomalib_models import Glad
from mendiff.data.images import save_png
from tests.parts import CONFIG, datamodule, engine, picture


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(1)
    for name, count in (("good", 12), ("good_test", 4), ("bad", 4), ("mask", 4)):
        (root / name).mkdir()
        for index in range(count):
            image = picture(rng, defect=4 + 4 * index if name == "bad" else 0)
            if name == "mask":
                image = np.zeros((32, 32), bool)
                image[8:16, 8 : 12 + 4 * index] = True
            save_png(image, root / name / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def fitted(folder, tmp_path_factory):
    model = Glad(CONFIG)
    runner = engine(tmp_path_factory.mktemp("results"))
    runner.fit(model, datamodule=datamodule(folder))
    return model, runner, Path(runner.best_model_path)
