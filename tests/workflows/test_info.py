"""`mendiff info`."""

import json

import pytest

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


def flat(text):
    """Without the line breaks of a table."""
    return " ".join(text.split())


def test_info_describes_the_model(run, model):
    code, out, err = run("info", model, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    # Four held-back images; the five training images score lower, so their scores are not used.
    assert (result["method"], result["image_size"], result["calibration_images"]) == ("glad", 32, 4)
    assert result["info"]["categories"] == ["plate"]
    assert result["config"]["training"]["steps"] == 2
    code, out, _ = run("info", model)
    assert code == 0
    assert "9 good images of plate" in out
    power = result["info"]["power"]
    assert len(power["scores"]) == len(power["diameters"]) == 4
    assert f"finds {sum(score > result['threshold'] for score in power['scores'])} of 4 synthetic" in flat(
        out
    )
    assert "by false-alarm rate:" in flat(out)
