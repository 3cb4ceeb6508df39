"""12-bit values in 16-bit files, from fit to predict and evaluate."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mendiff import load
from mendiff.cli import main
from mendiff.data.reading import Reading, read_image

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")

NETWORK = (
    "{block_out_channels: [8, 16], layers_per_block: 1, down_block_types: [DownBlock2D, DownBlock2D], "
    "up_block_types: [UpBlock2D, UpBlock2D], norm_num_groups: 4, add_attention: false}"
)
SETTINGS = [
    "image_size=32",
    "crop=0",
    f"denoiser.network={NETWORK}",
    "training.steps=2",
    "training.batch_size=2",
    "readout.bank_size=200",
    "readout.enlarge=0",
]


def draw(root, factor):
    """The same parts as 8-bit levels, or times 16 as 12-bit values in 16-bit files."""
    rng = np.random.default_rng(0)
    for place, count in (("train/good", 9), ("test/good", 2), ("test/spot", 2)):
        (root / place).mkdir(parents=True)
        for index in range(count):
            part = rng.integers(100, 140, (40, 40)) + (place == "test/spot") * 60
            values = part.astype(np.uint8) if factor == 1 else (part * factor).astype(np.uint16)
            Image.fromarray(values).save(root / place / f"{index}.png")
    return root


@pytest.fixture
def run(capsys):
    """Runs a command line; gives (code, standard output, standard error)."""

    def call(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        return (code, *capsys.readouterr())

    return call


def test_a_model_keeps_the_depth_that_it_was_fitted_with(tmp_path, run):
    deep, model = draw(tmp_path / "deep", 16), tmp_path / "model"
    settings = [word for pair in SETTINGS for word in ("--set", pair)]
    code, _, err = run("fit", deep, "-o", model, "--bit-depth", 12, "--json", *settings)
    assert code == 0
    assert "65535" not in err

    loaded = load(model)
    assert loaded.method.config.bit_depth == 12
    path = deep / "test/spot/0.png"
    assert np.array_equal(loaded.read(path), read_image(path, Reading(12)))
    assert loaded.read(path).max() > 150
    assert loaded.prepare(path).max() > 0.6
    assert loaded.predict(path).score == loaded.predict(loaded.read(path)).score

    code, out, err = run("predict", model, deep / "test", "-o", tmp_path / "findings", "--json")
    assert code == 0
    assert "65535" not in err
    scores = {row["image"]: row["score"] for row in json.loads(out)["images"]}
    assert scores[str(path)] == pytest.approx(float(loaded.predict(path).score))
    code, out, err = run("evaluate", model, deep, "--json")
    assert code == 0
    assert "65535" not in err
    _, out, _ = run("info", model)
    assert "16-bit files have 12 significant bits" in " ".join(out.replace("│", "").split())


def test_check_fit_and_predict_say_that_twelve_bits_are_nearly_black(tmp_path, run):
    deep, model = draw(tmp_path / "deep", 16), tmp_path / "model"
    settings = [word for pair in SETTINGS for word in ("--set", pair)]
    expected = "of 16 bits have a maximum of 3184 of 65535"

    _, out, _ = run("check", deep)
    assert expected in out
    assert "--bit-depth 12" in out
    _, out, _ = run("check", deep, "--bit-depth", 12)
    assert "65535" not in out
    code, _, err = run("fit", deep, "-o", model, "--json", *settings)
    assert code == 0
    assert expected in err
    _, _, err = run("predict", model, deep / "test", "-o", tmp_path / "findings", "--json")
    assert expected in err
    shutil.rmtree(tmp_path / "findings")
    _, _, err = run(
        "predict", model, draw(tmp_path / "plain", 1) / "test", "-o", tmp_path / "findings", "--json"
    )
    assert "65535" not in err


def test_pillows_own_warnings_stay_out_of_what_people_see(tmp_path, run, recwarn):
    """A palette whose transparency is given in bytes makes Pillow warn when it is converted."""
    for index in range(3):
        levels = np.random.default_rng(index).integers(0, 9, (20, 20), dtype=np.uint8)
        image = Image.fromarray(levels)
        image.putpalette([value for grey in range(256) for value in (grey, grey, 200)])
        (tmp_path / "set").mkdir(exist_ok=True)
        image.save(tmp_path / f"set/{index}.png", transparency=bytes(range(9)))

    code, _, err = run("check", tmp_path / "set")
    assert (code, err) == (0, "")
    assert not [warning for warning in recwarn.list if "PIL" in warning.filename]
