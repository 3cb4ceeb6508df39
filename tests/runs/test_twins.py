"""Clean twins in `mendiff evaluate`."""

import json
import shutil

import pytest
from PIL import Image

from tests.commands import METRICS, TOLD, draw

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")

TWINS = ["twin_psnr_inside", "twin_psnr_outside", "twin_features_inside", "twin_features_outside"]


@pytest.fixture
def twinned(data, tmp_path):
    """The data with clean twins, of which one fits no image, and one can't be read."""
    root = shutil.copytree(data, tmp_path / "plate")
    draw(root / "test/hole", 2, defect=16, seed=3)
    shutil.copytree(root / "ground_truth/scratch", root / "ground_truth/hole")
    draw(root / "twin/scratch", 2, seed=2)
    draw(root / "twin/hole", 2, seed=3)
    Image.new("RGB", (30, 20)).save(root / "twin/hole/0.png")
    (root / "twin/hole/1.png").write_bytes(b"")
    return root


def test_evaluate_compares_reconstructions_with_clean_twins(run, model, twinned, tmp_path):
    words = ("-o", tmp_path / "run", "--report", tmp_path / "report.html", "--json")
    code, out, err = run("evaluate", model, twinned, *words)
    assert code == 0, err
    assert "expected the size of its image, 40x40, got 30x20" in err.replace("\n", " ")
    assert err.count("twin/hole/") == 2
    result = json.loads(out)
    assert list(result) == ["mean", "categories", "twins", *TOLD[2:]]
    assert list(result["categories"]["plate"]) == [*METRICS, *TWINS]
    found = result["twins"]["plate"]
    assert (found["images"], list(found["kinds"])) == (2, ["scratch"])
    assert found["mean"] == {key: result["mean"][key] for key in TWINS}
    # The twins are drawn with the same random numbers: outside differs only what resizing carries there.
    assert found["untouched"]["twin_psnr_inside"] < 10 < 30 < found["untouched"]["twin_psnr_outside"]
    stored = json.loads((tmp_path / "run/run.json").read_text())
    assert stored["metrics"]["mean"] == result["mean"]
    assert "Against the clean twin" in (tmp_path / "report.html").read_text()


def test_evaluate_prints_the_figures_of_twins_beside_those_of_nothing_mended(run, model, twinned, data):
    code, text, _ = run("evaluate", model, twinned)
    assert code == 0
    assert "reconstructions against clean twins" in text
    assert "image unchanged" in text
    assert "image unchanged" not in run("evaluate", model, data)[1]
