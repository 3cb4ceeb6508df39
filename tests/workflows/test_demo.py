"""`mendiff demo`."""

import json
from functools import partial

import pytest

import mendiff
import mendiff.model as mendiff_model
from mendiff.demo.data import DemoConfig
from mendiff.methods.base import METHODS, find_method
from mendiff.runs.fit_config import Plan, make_config
from mendiff.workflows import demo
from tests.commands import GUIDED_NETWORK, NETWORK, settings

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


def test_demo_draws_its_data_alone(run, refused, tmp_path, monkeypatch):
    small = partial(DemoConfig, size=64, n_train=2, n_test_good=1, n_defective=1)
    monkeypatch.setattr("mendiff.workflows.demo.DemoConfig", small)
    words = ("demo", "--make-data", tmp_path / "parts", "--categories", "tile")
    code, out, _ = run(*words, "--json")
    assert (code, json.loads(out)) == (0, {"data": str(tmp_path / "parts"), "categories": ["tile"]})
    assert len(list((tmp_path / "parts/tile").rglob("*.png"))) == 6  # one is the defective part's clean twin
    assert "not an empty folder" in refused(*words)


@pytest.mark.parametrize("method", ["glad", "diad"])
def test_demo_learns_tests_and_reports(run, tmp_path, monkeypatch, method):
    small = partial(DemoConfig, size=64, n_train=12, n_test_good=2, n_defective=2)
    monkeypatch.setattr("mendiff.workflows.demo.CALIBRATION", 6)
    monkeypatch.setattr("mendiff.workflows.demo.DemoConfig", small)
    calibrated, calibrate = [], mendiff_model.calibrate
    monkeypatch.setattr(
        mendiff_model,
        "calibrate",
        lambda *given, **options: (calibrated.append(given), calibrate(*given, **options))[1],
    )
    out, network = tmp_path / "demo", {"glad": NETWORK, "diad": GUIDED_NETWORK}[method]
    words = ("--method", method, *settings(denoiser__network=network))
    code, text, err = run("demo", "-o", out, "--categories", "tile", "fabric", *words)
    assert code == 0, err
    assert "fabric" in text
    assert "tile" in text
    assert str(out / "report.html") in err.replace("\n", "")
    assert ".demo." not in err  # the hidden folder is nobody's business
    result = json.loads((out / "demo.json").read_text())
    controls = result["controls"]
    assert set(controls) == {"median colour", "memory bank", "untrained"}
    assert all(set(rows["categories"]) == {"tile", "fabric"} for rows in controls.values())
    assert set(result["categories"]) == {"fabric", "tile"}
    assert "tile" in (out / "report.html").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["data", "demo.json", "models", "report.html"]
    assert mendiff.load(out / "models/tile").info["categories"] == ["fabric", "tile"]
    # For each kind of part, its model and the untrained control, and never the shared network.
    assert len(calibrated) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "demo"]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_demos_own_settings_make_a_network_for_its_pictures(method):
    changes = demo.WHOLE_PICTURES | find_method(method).DEMO
    config = make_config(Plan(method, settings=changes), [])
    assert (config.image_size, config.crop) == (128, 0)
    assert config.training.steps <= 1200


def test_an_interrupted_demo_keeps_nothing_and_says_so(run, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mendiff.workflows.demo._fit_and_report", interrupted)
    monkeypatch.setattr("mendiff.workflows.demo.make_data", lambda *_: None)
    code, _, err = run("demo", "-o", tmp_path / "demo")
    assert code == 130
    assert "interrupted; nothing is kept: run the same command to start again; --set" in err
    assert [path.name for path in tmp_path.iterdir()] == ["cwd"]


def test_a_slip_in_the_demos_settings_shows_before_anything_is_drawn(refused, monkeypatch):
    monkeypatch.setattr("mendiff.workflows.demo.make_data", lambda *_: pytest.fail("drawn"))
    assert "config.training: expected some of" in refused("demo", "--set", "training.stps=3")
    assert "got 'zebra'" in refused("demo", "--set", "denoiser.network={zebra: 3}")
