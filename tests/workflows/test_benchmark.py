"""Benchmarks: what is planned, resumed and refused; the controls stand in for methods that take long."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mendiff.cli import main
from mendiff.cli.job import end_with
from mendiff.cli.terminal import Terminal
from mendiff.data.dataset import open_data
from mendiff.errors import InputError
from mendiff.evaluation.ablations import ABLATIONS
from mendiff.evaluation.metrics import METRICS, TWIN_METRICS
from mendiff.evaluation.rows import Row
from mendiff.evaluation.suites import SUITES
from mendiff.methods.base import METHODS
from mendiff.workflows import identity as identities
from mendiff.workflows.bench import Bench, SharedInputs, chosen_rows, planned, with_shared_inputs
from mendiff.workflows.benchmark import printed
from mendiff.workflows.identity import category_fingerprint
from mendiff.workflows.job import RowPredictor, check_identity, row_metrics
from mendiff.workflows.queue import check_folder, outcomes, outcomes_of_ray, prepared
from mendiff.workflows.spec import FAILED, MODEL, Job, read_moved, result_file
from tests.commands import jobs_in_process


def bench(
    rows, categories=("nut", "bolt"), multi_class=False, seeds=(0,), suite=None, preset="tiny", tmp_path=None
):
    return Bench(rows, list(categories), multi_class, tmp_path, "auto", seeds, preset, None, None, suite)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Two categories of small pictures, bright squares as defects."""
    root, rng = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    for category in ("bolt", "nut"):
        for folder, count, defect in (("train/good", 10, 0), ("test/good", 3, 0), ("test/dot", 3, 9)):
            place = root / category / folder
            place.mkdir(parents=True)
            for number in range(count):
                image = rng.integers(90, 120, (40, 40, 3), dtype=np.uint8)
                image[10 : 10 + defect, 10 : 10 + defect] = 255
                Image.fromarray(image).save(place / f"{number}.png")
                if defect:
                    mask = np.zeros((40, 40), np.uint8)
                    mask[10 : 10 + defect, 10 : 10 + defect] = 255
                    truth = root / category / "ground_truth/dot"
                    truth.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(truth / f"{number}_mask.png")
    return root


def run(parts, out, *options):
    return main(["benchmark", str(parts), "-o", str(out), "--methods", "median-colour", *options])


@pytest.fixture(scope="module")
def finished(parts, tmp_path_factory):
    """A finished run of the two controls."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with jobs_in_process():
        assert run(parts, out, "memory-bank", "--json") == 0
    return out


def without_times(path):
    data = json.loads(path.read_text())
    for one in data["results"]:
        for key in ("fit_seconds", "images_per_second", "peak_gb"):
            one.pop(key)
    return data


def test_every_row_and_category_stands_in_the_tables(finished):
    data = json.loads((finished / "results.json").read_text())

    assert {one["label"] for one in data["results"]} == {"median-colour", "memory-bank"}
    text = (finished / "results.md").read_text()
    assert text.splitlines()[0].startswith(
        "| image AUROC / pixel AUROC / pixel AP / AUPRO | bolt | nut | mean |"
    )
    assert "median-colour" in (finished / "results.csv").read_text()
    assert r"\begin{tabular}" in (finished / "results.tex").read_text()
    found = {(one["label"], one["category"], one["metric"]): one["value"] for one in data["figures"]}
    assert found["median-colour", "bolt", "image_auroc"] == 1.0  # a white square on grey


def test_what_is_done_is_not_done_again_and_what_is_missing_comes_out_alike(parts, finished, one_process):
    before, kept = without_times(finished / "results.json"), {}
    for folder in (finished / "jobs").iterdir():
        for path in folder.glob("*.result.json"):
            kept[path] = path.stat().st_mtime_ns
    lost = next(path for path in kept if "memory-bank" in path.name)
    lost.unlink()

    assert run(parts, finished, "memory-bank", "--json") == 0

    assert without_times(finished / "results.json") == before
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items() if path != lost)


def test_tables_show_the_jobs_of_earlier_commands_too(parts, finished):
    before = (finished / "results.csv").read_text()

    assert main(["benchmark", str(parts), "-o", str(finished), "--methods", "memory-bank", "--json"]) == 0

    assert sorted((finished / "results.csv").read_text().splitlines()) == sorted(before.splitlines())


def test_our_methods_compare_pixels_alone_where_no_features_were_asked_for(parts, tmp_path, one_process):
    asked = ["--methods", "glad", "--categories", "bolt", "--features", "none"]
    small = {"training.steps": 1, "image_size": 32, "crop": 0, "readout.bank_size": 200, "readout.enlarge": 0}
    asked += [word for key, value in small.items() for word in ("--set", f"glad.{key}={value}")]

    assert main(["benchmark", str(parts), "-o", str(tmp_path / "run"), *asked]) == 0

    config = json.loads((tmp_path / "run/jobs/glad-bolt-0" / MODEL / "config.json").read_text())
    assert config["config"]["features"]["name"] == ""


def test_a_folder_of_other_work_is_refused(parts, finished, capsys):
    code = run(parts, finished, "memory-bank", "--preset", "other")

    assert code == 2
    assert "preset: tiny before, other now" in capsys.readouterr().err


def test_jobs_run_at_once_in_processes_of_their_own_and_one_that_fails_is_named(parts, tmp_path, capsys):
    words = ("memory-bank", "--features", "resnet18", "--categories", "nut", "--jobs", "2")
    code = run(parts, tmp_path / "run", *words)

    told = " ".join(capsys.readouterr().err.split())
    assert code == 2
    assert "1 of 2 jobs failed" in told
    assert "memory-bank-nut-0: --features: expected --features-weights, too" in told
    results = json.loads((tmp_path / "run/results.json").read_text())["results"]
    assert [one["label"] for one in results] == ["median-colour"]
    logs = (tmp_path / "run/jobs").glob("*/log.txt")
    assert sorted(one.parent.name for one in logs) == ["median-colour-nut-0", "memory-bank-nut-0"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--suite", "glad-mars"], "--suite: expected one of glad-mvtec"),
        (["--suite", "glad-mvtec"], "expected categories carpet"),
        (["--jobs", "0"], "--jobs: expected at least 1"),
        (["--set", "steps=3"], "METHOD.FIELD=VALUE"),
        (["--set", "glad.steps=3"], "a method of this benchmark (median-colour)"),
        (["--ablation", "diad-sff"], "expected only one of them, got both"),
    ],
)
def test_bad_input_is_one_sentence(parts, tmp_path, capsys, options, sentence):
    assert run(parts, tmp_path / "run", *options) == 2

    told = capsys.readouterr().err.strip()
    assert sentence in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_rows_that_are_trained_alike_share_one_fit(tmp_path):
    rows = (
        Row("a", "ran"),
        Row("b", "ran", changes={"readout.kl_weight": 1.0}),
        Row("c", "ran", {"steps": 2}),
    )

    jobs = planned(bench(rows, seeds=(0, 1), tmp_path=tmp_path), "cpu")

    assert len(jobs) == 2 * 2 * 2  # fits x categories x seeds
    assert jobs["a-nut-1"].rows == {"a": {}, "b": {"readout.kl_weight": 1.0}}
    assert jobs["c-bolt-0"].settings == {"steps": 2}


def test_a_multi_class_job_learns_all_categories(tmp_path):
    jobs = planned(bench((Row("a", "ran"),), multi_class=True, tmp_path=tmp_path), "cpu")

    assert list(jobs) == ["a-all-0"]
    assert jobs["a-all-0"].categories == ["nut", "bolt"]


def test_settings_are_for_the_method_that_they_name():
    rows, _ = chosen_rows(None, None, ["glad", "ran"], {"ran.training.steps": 7})

    assert [row.settings for row in rows] == [{}, {"training.steps": 7}] * 2  # and those of the controls


def test_a_suite_brings_the_papers_figures_of_ours_and_of_its_peers(tmp_path):
    rows = (Row("glad", "glad"), Row("patchcore", "patchcore"), Row("median-colour", "median-colour"))

    known = printed(bench(rows, suite=SUITES["glad-mvtec"], tmp_path=tmp_path))

    assert known["glad"]["carpet"] == {"image_auroc": 0.99, "pixel_auroc": 0.985}
    assert known["patchcore"]["mean"] == {"image_auroc": 0.991, "pixel_auroc": 0.981}
    assert not any(known["median-colour"].values())


@pytest.mark.parametrize(
    ("suite", "preset", "expected"),
    [
        ("glad-visa", "paper", "paper/visa/candle"),
        ("diad-visa", "paper", "paper/visa"),
        ("ran-mvtec", "paper", "paper"),
        ("glad-visa", "tiny", "tiny"),
    ],
)
def test_a_suite_takes_the_published_settings_of_its_categories(tmp_path, suite, preset, expected):
    chosen = SUITES[suite]
    rows = (Row(chosen.method, chosen.method), Row("memory-bank", "memory-bank"))

    jobs = planned(bench(rows, chosen.categories, suite=chosen, preset=preset, tmp_path=tmp_path), "cpu")

    first = chosen.categories[0]
    assert jobs[f"{chosen.method}-{first}-0"].preset == expected
    assert jobs[f"memory-bank-{first}-0"].preset == preset


@pytest.mark.parametrize("name", ABLATIONS)
def test_rows_of_an_ablation_have_names_of_their_own(name):
    labels = [row.label for row in ABLATIONS[name].rows]
    assert len(set(labels)) == len(labels)
    assert {row.method for row in ABLATIONS[name].rows} <= set(METHODS)


def test_one_model_for_all_takes_the_preset_of_the_whole_set(tmp_path):
    rows, suite = (Row("glad", "glad"),), SUITES["glad-mvtec"]
    asked = bench(rows, suite.categories, True, suite=suite, preset="paper", tmp_path=tmp_path)

    assert planned(asked, "cpu")["glad-all-0"].preset == "paper/mvtec"


# What the papers print belongs to the method that they print it of.


def test_the_papers_figures_stand_beside_the_method_itself_alone(tmp_path):
    suite = SUITES["diad-mvtec"]
    rows, together = chosen_rows(suite, "diad-baselines", None, {}, "paper")

    known = printed(bench(rows, suite.categories, together, suite=suite, preset="paper", tmp_path=tmp_path))

    assert known["DiAD"]["bottle"]["image_auroc"] == 0.997
    assert [label for label, places in known.items() if any(places.values())] == ["DiAD"]


@pytest.mark.parametrize(
    ("settings", "kept"), [({"glad.training.accumulate": 8}, True), ({"glad.training.steps": 5}, False)]
)
def test_other_settings_are_not_those_of_the_paper_unless_they_change_no_result(tmp_path, settings, kept):
    suite = SUITES["glad-mvtec"]
    rows, _ = chosen_rows(suite, None, ["glad"], settings)

    known = printed(bench(rows, suite.categories, suite=suite, tmp_path=tmp_path))

    assert bool(known.get("glad")) == kept


def test_a_mean_of_some_categories_does_not_stand_beside_the_mean_of_all(tmp_path):
    suite, rows = SUITES["glad-mvtec"], (Row("glad", "glad"),)

    whole = printed(bench(rows, suite.categories, suite=suite, tmp_path=tmp_path))
    some = printed(bench(rows, suite.categories[:3], suite=suite, tmp_path=tmp_path))

    assert whole["glad"]["mean"]["image_auroc"] == 0.993
    assert "mean" not in some["glad"]


def test_one_model_for_all_does_not_stand_beside_models_for_each(tmp_path):
    suite, rows = SUITES["glad-mvtec"], (Row("glad", "glad"),)

    assert printed(bench(rows, suite.categories, True, suite=suite, tmp_path=tmp_path)) == {}


# What is given to the fits.


def test_what_is_given_reaches_the_fits_that_can_take_it(tmp_path):
    rows = (Row("glad", "glad"), Row("ran", "ran"), Row("median-colour", "median-colour"))
    asked = bench(rows, ("nut",), preset="paper", tmp_path=tmp_path)
    given = SharedInputs(pretrained="somebody/diffusion", textures=tmp_path / "dtd", statistics="category")

    jobs = with_shared_inputs(planned(asked, "cpu"), given)

    glad, ran, control = (jobs[f"{name}-nut-0"] for name in ("glad", "ran", "median-colour"))
    assert (glad.pretrained, glad.statistics) == ("somebody/diffusion", "category")
    assert glad.textures == str((tmp_path / "dtd").resolve())
    assert (ran.pretrained, ran.textures, ran.statistics) == (None, None, "category")
    assert (control.pretrained, control.textures, control.statistics) == (None, None, "global")


def test_a_codec_reaches_the_rows_that_are_not_about_another_one(tmp_path, bundled):
    rows = (Row("a", "diad"), Row("b", "diad", {"codec.kind": "pixels"}), Row("c", "ran"))

    jobs = with_shared_inputs(
        planned(bench(rows, ("nut",), tmp_path=tmp_path), "cpu"), SharedInputs(codec=Path("auto"))
    )

    assert [jobs[f"{label}-nut-0"].codec for label in "abc"] == ["auto", None, None]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--pretrained", "a/b"],
            "--pretrained: expected rows that accept it (glad and diad at a",
        ),
        (["--statistics", "category"], "--statistics: expected rows that accept it"),
        (["--statistics", "each"], "--statistics: expected one of global, category"),
        (["glad", "--preset", "paper"], "--pretrained: expected Stable Diffusion v1 for --preset paper"),
        (["glad", "--set", "glad.training.step=3"], "training: expected some of"),
        (["glad", "--textures", "nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_what_no_row_can_take_is_refused_before_anything_runs(parts, tmp_path, capsys, options, sentence):
    assert run(parts, tmp_path / "run", *options) == 2

    told = capsys.readouterr().err.strip()
    assert sentence in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "run").exists()


# A folder of jobs belongs to its data, weights, device and code.


@pytest.fixture
def own(parts, tmp_path):
    """One category of one's own to change."""
    shutil.copytree(parts / "nut", tmp_path / "data/nut")
    return tmp_path / "data"


@pytest.fixture
def done(own, tmp_path, one_process):
    """(data, options) to the exit code of a control's run in this process; it writes to tmp_path/run."""

    def again(data=own, *options):
        return run(data, tmp_path / "run", *options)

    assert again() == 0
    return again


def specs(tmp_path):
    return {path: path.read_bytes() for path in (tmp_path / "run/jobs").rglob("job.json")}


def brighten(path):
    Image.fromarray(np.array(Image.open(path)) // 2).save(path)


def test_a_run_on_the_same_data_is_not_done_again_even_at_another_place(done, own, tmp_path, capsys):
    before = specs(tmp_path)
    assert done() == 0
    moved = shutil.copytree(own, tmp_path / "moved")
    shutil.rmtree(own)
    capsys.readouterr()

    assert done(moved) == 0

    assert "1 of 1 jobs are done already" in (told := capsys.readouterr().err)
    assert "have moved; their content is unchanged" in told
    assert specs(tmp_path) == before


def test_what_is_missing_is_done_from_where_the_data_lie_now(done, own, tmp_path):
    moved = shutil.copytree(own, tmp_path / "moved")
    shutil.rmtree(own)
    result = tmp_path / "run/jobs/median-colour-nut-0/median-colour.result.json"
    result.unlink()

    assert done(moved) == 0

    assert result.is_file()


@pytest.mark.parametrize("name", ["train/good/3.png", "test/dot/1.png", "ground_truth/dot/1_mask.png"])
def test_another_picture_or_mask_is_other_data(done, own, tmp_path, capsys, name):
    before, results = specs(tmp_path), (tmp_path / "run/results.json").read_bytes()
    other = shutil.copytree(own, tmp_path / "other")
    brighten(other / "nut" / name)

    assert done(other) == 2

    assert "data: images, masks or twins of nut have changed" in capsys.readouterr().err
    assert specs(tmp_path) == before
    assert (tmp_path / "run/results.json").read_bytes() == results


def test_data_that_are_changed_in_place_are_other_data(done, own, capsys):
    (own / "nut/test/good/0.png").unlink()

    assert done() == 2

    assert "images, masks or twins of nut" in capsys.readouterr().err


def test_a_fingerprint_is_of_contents_labels_and_names_and_not_of_places(own, tmp_path):
    def known(root):
        (category,) = open_data(root)
        return category_fingerprint(category)

    first, copy = known(own), shutil.copytree(own, tmp_path / "copy")
    assert known(copy) == first
    (copy / "nut/test/dot").rename(copy / "nut/test/scratch")
    (copy / "nut/ground_truth/dot").rename(copy / "nut/ground_truth/scratch")
    assert known(copy) != first


def test_a_fingerprint_is_of_clean_twins_too(own):
    first = category_fingerprint(open_data(own)[0])
    shutil.copytree(own / "nut/test/dot", own / "nut/twin/dot")

    assert category_fingerprint(open_data(own)[0]) != first


class Changing:
    """A method that darkens images, or makes no images at all."""

    def __init__(self, makes):
        self.makes = makes

    def __call__(self, name):
        rebuilt = []

        def predict(batch):
            rebuilt.extend([batch * 0.9] * self.makes)
            return batch.amax((1, 2, 3)), batch.mean(1, keepdim=True)

        return RowPredictor(predict, 40, rebuilt=rebuilt)


def test_reconstructions_are_measured_where_there_are_twins(own):
    (nut,) = open_data(own)
    plain = row_metrics(Changing(True), [nut], Terminal(quiet=True))
    for path in nut.root.glob("test/dot/*.png"):  # the defect is a white square
        twin = nut.root / "twin/dot" / path.name
        twin.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.minimum(np.asarray(Image.open(path)), 119)).save(twin)
    (nut,) = open_data(own)

    found, without = (row_metrics(Changing(makes), [nut], Terminal(quiet=True)) for makes in (True, False))

    assert set(found["mean"]) == {*METRICS, *TWIN_METRICS}
    assert set(without["mean"]) == set(plain["mean"]) == set(METRICS)
    assert "twins" not in plain.keys() | without.keys()
    told = found["twins"]["nut"]
    assert (told["images"], list(told["kinds"])) == (3, ["dot"])
    assert told["mean"] == told["kinds"]["dot"]
    # 0.9 of white is nearer to grey than white is; 0.9 of grey is farther from it than grey.
    assert told["untouched"]["twin_psnr_inside"] < told["mean"]["twin_psnr_inside"] < 10
    assert told["mean"]["twin_psnr_outside"] < 35 < told["untouched"]["twin_psnr_outside"]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ({"sources": "other"}, "code: the files of the package mendiff have changed"),
        ({"torch": "1.0"}, "code: torch: "),
        ({"mendiff": "9.0"}, "code: mendiff: "),
    ],
)
@pytest.mark.parametrize("options", [(), ("--seeds", "7")])
def test_another_code_is_refused_for_the_whole_folder(
    done, own, tmp_path, monkeypatch, capsys, code, told, options
):
    before, real = specs(tmp_path), identities.code()
    monkeypatch.setattr(identities, "code", lambda: real | code)

    assert done(own, *options) == 2

    assert told in capsys.readouterr().err
    assert specs(tmp_path) == before


def stated(name, folder, **changes):
    contents = {
        "data": {"nut": "1"},
        "files": {"features_weights": "2"},
        "device": {"device": "cpu"},
        "code": {},
    }
    contents |= changes.pop("identity", {})
    job = Job("memory-bank", {"bank": {}}, "parts", ["nut"], identity=contents)
    (folder / "jobs" / name).mkdir(parents=True, exist_ok=True)
    return replace(job, **changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"files": {"features_weights": "3"}}, "features_weights: content has changed"),
        ({"files": {}}, "features_weights: removed"),
        ({"files": {"features_weights": "2", "codec": "4"}}, "codec: added"),
        ({"device": {"device": "cuda"}}, "device: cpu before, cuda now"),
    ],
)
@pytest.mark.parametrize("name", ["bank-nut-0", "bank-bolt-0"])
def test_other_weights_and_another_device_are_refused_for_all_jobs_of_a_row(tmp_path, changes, told, name):
    folder = prepared(tmp_path, "bank-nut-0", stated("bank-nut-0", tmp_path))
    result_file(folder, "bank").write_text("{}")

    with pytest.raises(InputError, match=told):
        check_folder(tmp_path, {name: stated(name, tmp_path, identity=changes)})


def test_another_cuda_device_is_the_same_kind(tmp_path):
    job = stated("a", tmp_path, device="cuda:0", identity={"device": {"device": "cuda"}})
    before = prepared(tmp_path, "a", job) / "job.json"
    kept = before.read_bytes()

    prepared(tmp_path, "a", replace(job, device="cuda:1"))

    assert before.read_bytes() == kept
    assert read_moved(before.parent).device == "cuda:1"


def test_rows_that_come_to_a_fit_later_are_added_and_those_that_are_there_stay(tmp_path):
    job = stated("a", tmp_path)
    folder = prepared(tmp_path, "a", job)
    prepared(tmp_path, "a", replace(job, rows={"other": {"x": 1}}, data="elsewhere"))

    kept = json.loads((folder / "job.json").read_text())
    assert (kept["rows"], kept["data"]) == ({"bank": {}, "other": {"x": 1}}, "parts")
    with pytest.raises(InputError, match="changes of 'other'"):
        prepared(tmp_path, "a", replace(job, rows={"other": {"x": 2}}))


def test_a_job_that_failed_at_once_may_be_put_right(tmp_path):
    folder = prepared(tmp_path, "a", stated("a", tmp_path))
    other = stated("a", tmp_path, identity={"files": {"features_weights": "3"}})
    with pytest.raises(InputError):
        prepared(tmp_path, "a", other)  # it may be about to run
    (folder / FAILED).write_text("no such file")

    prepared(tmp_path, "a", other)

    assert read_moved(folder) == other


def test_a_job_of_an_earlier_version_is_not_taken_for_this_ones(tmp_path):
    prepared(tmp_path, "a", stated("a", tmp_path, identity={"files": {}}))
    place = tmp_path / "jobs/a/job.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"identity": {}}))

    with pytest.raises(InputError, match="an earlier version wrote this run"):
        prepared(tmp_path, "a", stated("a", tmp_path))


def test_data_that_change_while_a_job_waits_are_not_measured(own):
    (category,) = open_data(own)
    job = Job("median-colour", {"a": {}}, str(own), ["nut"])
    job = replace(job, identity=identities.identity(job, [category]))
    check_identity(job, [category])
    brighten(category.train[0])

    with pytest.raises(InputError, match="expected the data, weights and code of the benchmark's start"):
        check_identity(job, [category])


def test_files_of_weights_are_known_by_their_contents(parts, tmp_path):
    (category,) = open_data(parts / "nut")
    for name, content in (("one", b"1"), ("same", b"1"), ("other", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "resnet18.safetensors").write_bytes(content)

    def known(name, **more):
        job = Job("memory-bank", {}, "", ["nut"], features="resnet18", features_weights=str(tmp_path / name))
        return identities.identity(replace(job, **more), [category])["files"]

    assert known("one") == known("same") != known("other")
    assert known("one/resnet18.safetensors") == known("one")


@pytest.mark.parametrize(
    "content",
    [
        '{"strange": 1}',
        "[]",
        "{",
        '{"method": "a", "rows": [], "data": "", "categories": []}',
        '{"method": "a", "rows": {"a": 3}, "data": "", "categories": []}',
        '{"method": "a", "rows": {}, "data": "", "categories": [], "identity": null}',
    ],
)
def test_another_file_where_the_job_should_be_is_refused(tmp_path, content):
    place = tmp_path / "jobs/a-nut-0"
    place.mkdir(parents=True)
    (place / "job.json").write_text(content)

    with pytest.raises(InputError, match="expected a job of this version"):
        prepared(tmp_path, "a-nut-0", Job("median-colour", {"a": {}}, "parts", ["nut"]))


@pytest.mark.slow  # the same with one that fails is tried above
def test_several_jobs_run_at_once(parts, tmp_path):
    rows = (Row("median-colour", "median-colour"),)
    jobs = planned(bench(rows, ("bolt", "nut"), tmp_path=parts), "cpu")
    folders = [prepared(tmp_path, name, job) for name, job in jobs.items()]

    assert sorted(outcomes(folders, 2, None)) == [(folder, "") for folder in sorted(folders)]
    assert all(result_file(folder, "median-colour").is_file() for folder in folders)


def test_jobs_run_on_a_ray_cluster(parts, tmp_path):
    pytest.importorskip("ray")
    jobs = planned(bench((Row("median-colour", "median-colour"),), ("nut",), tmp_path=parts), "cpu")
    folders = [prepared(tmp_path, name, job) for name, job in jobs.items()]

    assert list(outcomes_of_ray(folders, "local")) == [(folders[0], "")]


def test_a_job_ends_when_the_benchmark_that_started_it_is_gone(monkeypatch):
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr(os, "_exit", sys.exit)

    with pytest.raises(SystemExit):
        end_with(parent=4321)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_equals_an_unbroken_one(parts, tmp_path):
    small = {"image_size": 32, "crop": 0, "training.steps": 40, "training.batch_size": 2}
    options = ["--methods", "glad", "--categories", "nut", "--json"]
    options += [word for key, value in small.items() for word in ("--set", f"glad.{key}={value}")]
    command = [sys.executable, "-m", "mendiff", "benchmark", str(parts), *options]
    broken, whole = tmp_path / "broken", tmp_path / "whole"

    running = subprocess.Popen([*command, "-o", str(broken)])
    fitting = broken / "jobs/glad-nut-0" / f".{MODEL}.fit"
    while not fitting.is_dir() and running.poll() is None:
        time.sleep(0.05)
    running.kill()  # its job, a process of its own, is to end by itself
    running.wait()
    assert not (broken / "results.json").exists()

    for out in (broken, whole):
        assert subprocess.run([*command, "-o", str(out)]).returncode == 0
    assert without_times(broken / "results.json") == without_times(whole / "results.json")


def test_tables_of_others_are_never_replaced(parts, tmp_path, capsys):
    (tmp_path / "results.csv").write_text("mine")
    assert run(parts, tmp_path) == 2
    assert "expected a new folder or that of a benchmark, but it has a results.csv from something else" in (
        capsys.readouterr().err
    )
    assert [one.name for one in tmp_path.iterdir()] == ["results.csv"]
    assert run(parts, tmp_path / "results.csv") == 2
    assert (tmp_path / "results.csv").read_text() == "mine"


def test_what_a_killed_benchmark_was_writing_goes(parts, finished):
    left = [finished / ".results.csv.0123.part", next((finished / "jobs").iterdir()) / ".x.0123.part"]
    for one in left:
        one.write_text("half")
    assert run(parts, finished, "memory-bank", "--json") == 0
    assert not any(one.exists() for one in left)


@pytest.mark.slow
def test_sigterm_ends_a_benchmark_and_its_jobs(parts, tmp_path):
    words = [sys.executable, "-m", "mendiff", "benchmark", str(parts), "-o", str(tmp_path / "run")]
    words += ["--methods", "glad", "--categories", "bolt", "--set", "glad.training.steps=100000"]
    process = subprocess.Popen([*words, "--features", "none"], stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run/jobs/glad-bolt-0/log.txt"
    while not (log.is_file() and "pixels" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    told = process.communicate()[1]
    assert process.returncode == 143
    assert told.splitlines()[-1] == "mendiff benchmark: interrupted; run the same command to continue."
    left = [one.name for one in (tmp_path / "run/jobs/glad-bolt-0").iterdir()]
    assert sorted(left) == ["job.json", "log.txt"]
    assert "Traceback" not in log.read_text()
    assert [one.name for one in tmp_path.iterdir()] == ["run"]
