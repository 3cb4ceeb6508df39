import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import mendiff
from mendiff.checkpoints.files import sealed
from mendiff.cli import main
from mendiff.data.image_files import find_images
from mendiff.data.inspected import InspectedArea
from mendiff.errors import InputError, NotFiniteError
from mendiff.export import folder as export_folder
from mendiff.export.graph import DetectionGraph, lower_median, sample_inputs
from mendiff.export.int8 import Int8Loss, good_inputs, quantise
from mendiff.export.opening import open_exported
from mendiff.export.precision import store_half
from mendiff.methods.base import find_method, find_preset
from mendiff.methods.config import override
from mendiff.runtime import load_exported
from mendiff.runtime.sessions import session
from tests.commands import DIAD, RAN, draw
from tests.test_readme import example

SCORES = 1e-4
"""Largest relative difference of a score."""


@pytest.fixture
def own_export(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "own")


def same(found, expected, scores=SCORES):
    """Compare what is found, as NumPy arrays or tensors."""
    # Maps are standardised by few good images here: 1 is their deviation.
    np.testing.assert_allclose(found.score, expected.score.numpy(), rtol=scores, atol=2 * scores)
    tolerance = 10 * scores * np.ptp(expected.anomaly_map.numpy())
    np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map.numpy(), rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.reconstruction, expected.reconstruction.numpy(), rtol=0, atol=scores)


def copied_graph(monkeypatch, exported):
    """Have exports copy the graph of `exported` instead of tracing the model again, which takes long."""
    monkeypatch.setattr(
        export_folder, "write_onnx", lambda method, file: shutil.copy(exported / "model.onnx", file)
    )


def resealed(folder, **changes):
    file = folder / "metadata.json"
    content = json.loads(file.read_text())
    del content["sha256"]
    file.write_text(json.dumps(sealed({**content, **changes}, "metadata")))


def test_an_exported_model_finds_what_the_model_finds(model, exported, photos):
    loaded, found = mendiff.load(model), load_exported(exported).predict(photos, batch_size=3)
    expected = loaded.predict(photos)
    same(found, expected)
    assert found.defective.tolist() == expected.defective.tolist()
    assert (found.threshold, found.heat_range) == (expected.threshold, expected.heat_range)
    assert found.p_value.tolist() == [loaded.calibration.p_value(float(score)) for score in expected.score]
    np.testing.assert_array_equal(found.mask, found.anomaly_map > loaded.calibration.pixel_threshold)


def test_an_image_alone_is_found_as_in_a_batch(exported, photos):
    opened = load_exported(exported)
    together = opened.predict(photos)
    for row in (0, len(photos) - 1):
        alone = opened.predict(photos[row])
        np.testing.assert_allclose(alone.score[0], together.score[row], rtol=SCORES)


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_several_streams_find_the_same_in_the_same_order(model, exported, photos, tmp_path, monkeypatch, to):
    copied_graph(monkeypatch, exported)
    out = tmp_path / "out"
    assert main(["export", str(model), "-o", str(out), "--to", to]) == 0
    expected = load_exported(out).predict(photos, batch_size=2)
    found = load_exported(out, streams=3).predict(photos, batch_size=2)
    np.testing.assert_allclose(found.score, expected.score, rtol=SCORES)
    assert found.sizes == expected.sizes


def test_predict_with_streams_writes_the_same_rows(run, refused, model, exported, photos, tmp_path):
    rows = []
    for streams in (1, 2):
        words = ("predict", exported, *photos, "-o", tmp_path / f"{streams}", "--batch-size", 2, "--json")
        code, out, _ = run(*words, "--streams", streams)
        assert code == 0
        rows.append(json.loads(out)["images"])
    for one, two in zip(*rows, strict=True):
        assert one["image"] == two["image"]
        assert one["score"] == pytest.approx(two["score"], rel=SCORES)
    words = ("-o", tmp_path / "out", "--streams")
    assert "expected 1 for a model folder, got 2" in refused("predict", model, photos[0], *words, 2)
    assert "streams: expected 1 to 64, got 0" in refused("predict", exported, photos[0], *words, 0)


def test_the_javascript_example_finds_the_same(exported, tmp_path):
    node, place = shutil.which("node"), Path(__file__).parents[2] / "examples/javascript"
    if node is None or not (place / "node_modules").is_dir():
        pytest.skip("needs Node.js, and npm install in examples/javascript")
    photos = sorted(draw(tmp_path / "photos", 4, seed=5).iterdir())
    words = [node, str(place / "predict.mjs"), str(exported), *map(str, photos)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    expected = load_exported(exported).predict(photos)
    assert [one["score"] for one in found] == pytest.approx(expected.score.tolist(), rel=SCORES)
    assert [one["p_value"] for one in found] == pytest.approx(expected.p_value.tolist())
    assert [one["defective"] for one in found] == expected.defective.tolist()


def test_arrays_and_pictures_are_found_as_files(exported, photos):
    opened = load_exported(exported)
    file = opened.predict(photos[0])
    assert len(opened.predict(photos[0].parent).score) == len(photos)
    with Image.open(photos[0]) as image:
        for given in (image.convert("RGB"), np.asarray(image)):
            assert opened.predict(given).score.tolist() == file.score.tolist()


def test_the_metadata_are_a_full_contract(model, exported):
    content = json.loads((exported / "metadata.json").read_text())
    loaded = mendiff.load(model)
    assert content["format"] == "mendiff-export"
    assert (content["method"], content["side"], content["precision"]) == ("glad", 32, "fp32")
    assert content["calibration"]["scores"] == list(loaded.calibration.scores)
    assert content["threshold"] == loaded.threshold
    inputs = {one.name: one for one in onnx.load(exported / "model.onnx").graph.input}
    shapes = {name: [d.dim_value for d in one.type.tensor_type.shape.dim] for name, one in inputs.items()}
    assert shapes == {"image": [0, 3, 32, 32], "noise": [0, *content["noise"]]}  # 0: any batch size


def test_the_noise_is_that_of_the_model(model, exported, photos):
    opened, loaded = load_exported(exported), mendiff.load(model)
    batch = opened.prepare(photos[0])[None]
    tensor = loaded.prepare(photos[0])[None]
    np.testing.assert_array_equal(batch, tensor.numpy())
    noise = loaded.method.noise(tensor, mendiff.model.content_seeds(tensor))
    np.testing.assert_array_equal(opened.inputs(batch)["noise"], noise.numpy())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_every_format_and_precision_finds_the_same(
    model, exported, photos, tmp_path, monkeypatch, to, precision
):
    copied_graph(monkeypatch, exported)
    out = tmp_path / "out"
    assert main(["export", str(model), "-o", str(out), "--to", to, "--precision", precision]) == 0
    found = load_exported(out, threads=1).predict(photos)
    same(found, mendiff.load(model).predict(photos), SCORES if precision == "fp32" else 1e-2)
    weights = sum(path.stat().st_size for path in out.iterdir() if path.suffix in (".onnx", ".bin"))
    whole = (exported / "model.onnx").stat().st_size
    assert weights < 0.85 * whole if precision == "fp16" else weights > 0.5 * whole  # the rest is structure


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("calibrate") / "good", 12, seed=9)


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_int8_keeps_what_is_found_and_states_the_loss(
    run, model, exported, photos, good, tmp_path, monkeypatch, to
):
    copied_graph(monkeypatch, exported)
    words = ("export", model, "-o", tmp_path / "out", "--to", to, "--precision", "int8", "--calibrate", good)
    code, out, _ = run(*words, "--max-loss", "0.2", "--json")
    assert code == 0
    loss = json.loads(out)["int8"]
    assert (loss["images"], loss["defects"]) == (4, 8)
    assert 0.5 < loss["auroc"] <= 1
    assert 0 < loss["change"] < 0.5
    found = load_exported(tmp_path / "out", threads=1).predict(photos)
    loaded = mendiff.load(model)
    expected = loaded.predict(photos).score.numpy()
    # The zero of a score has no meaning: the unit is the distance of good images from the threshold.
    unit = loaded.threshold - statistics.median(loaded.calibration.scores)
    assert (np.abs(found.score - expected) < 0.05 * np.maximum(unit, expected)).all()
    graph = tmp_path / "out" / ("model.onnx" if to == "onnx" else "model.xml")
    text = graph.read_bytes()
    assert b"DequantizeLinear" in text or b'type="FakeQuantize"' in text or b'element_type="i8"' in text


def test_int8_quantises_all_convolutions_but_those_of_the_backbone(model, exported, good, tmp_path):
    file = tmp_path / "model.onnx"
    shutil.copy(exported / "model.onnx", file)
    opened = load_exported(exported)
    quantise(file, mendiff.load(model).method, opened, good_inputs(opened, find_images(good)))
    graph = onnx.load(file).graph
    scaled = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    weights = {node.input[1]: node.input[1] in scaled for node in graph.node if node.op_type == "Conv"}
    assert {name.split(".")[1] for name, quantised in weights.items() if quantised} == {"denoiser"}
    assert not any(quantised for name, quantised in weights.items() if name.startswith("method.features"))
    assert all(quantised for name, quantised in weights.items() if name.startswith("method.denoiser"))


def test_int8_beyond_the_limit_or_with_few_images_is_refused(
    refused, model, exported, good, photos, tmp_path, monkeypatch
):
    copied_graph(monkeypatch, exported)
    words = ("export", model, "-o", tmp_path / "out", "--precision", "int8", "--calibrate")
    assert "at least 12 good images for int8, got 7" in refused(*words, photos[0].parent.parent / "photos")
    lost = Int8Loss(images=4, defects=8, auroc_float=0.99, auroc=0.9, change=0.5, decisions=2)
    monkeypatch.setattr(export_folder, "int8_loss", lambda *_: lost)
    sentence = refused(*words, good, "--max-loss", "0.05")
    assert "at most 0.05 of image AUROC (--max-loss), got 0.090, from 0.990 to 0.900" in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "changes"),
    [
        ({"letterbox": True}, {"resize": "letterbox"}),
        ({"tile": 20, "overlap": 0.25}, {"tile": 20, "tile_overlap": 0.25}),
        ({"tile": 50, "overlap": 0.5, "top_k": 30}, {"tile": 50, "tile_overlap": 0.5, "readout.top_k": 30}),
    ],
    ids=["letterbox", "tiles", "large tiles"],
)
def test_letterboxed_images_and_tiles_are_found_as_by_the_model(model, own_export, photos, names, changes):
    loaded = mendiff.load(model)
    loaded.method.config = override(loaded.method.config, {"upright": "never", **changes})
    loaded.method.readout.config = loaded.method.config.readout
    resealed(own_export, **names)
    found, expected = load_exported(own_export).predict(photos), loaded.predict(photos)
    same(found, expected)
    assert found.sizes == expected.sizes
    same(open_exported(own_export).predict(photos), expected)


def test_the_channels_of_a_model_are_read(model, own_export, photos):
    loaded = mendiff.load(model)
    loaded.method.config = override(loaded.method.config, {"channels": [2, 1, 0]})
    resealed(own_export, version=2, channels=[2, 1, 0])
    coloured = [path for path in photos if path.suffix == ".png"]
    for one in (load_exported(own_export), open_exported(own_export)):
        same(one.predict(coloured), loaded.predict(coloured))


def test_an_export_from_before_channels_opens(exported, own_export):
    content = json.loads((own_export / "metadata.json").read_text())
    del content["channels"], content["sha256"]
    assert content["version"] == 1
    (own_export / "metadata.json").write_text(json.dumps(sealed(content, "metadata")))
    assert load_exported(own_export).metadata == load_exported(exported).metadata


def test_an_inspected_area_is_exported(run, model, exported, photos, tmp_path, monkeypatch):
    copied_graph(monkeypatch, exported)
    mask = np.zeros((50, 50), bool)
    mask[5:30, 10:45] = True
    loaded = dataclasses.replace(mendiff.load(model), area=InspectedArea(mask))
    loaded.save(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), "-o", str(tmp_path / "out")]) == 0
    square = [path for path in photos if path.name != "oblong.png"]
    found, expected = load_exported(tmp_path / "out").predict(square), loaded.predict(square)
    same(found, expected)
    assert not found.mask[:, 0, 25:].any()
    same(open_exported(tmp_path / "out").predict(square), expected)
    with pytest.raises(InputError, match="region: expected a mask with the aspect ratio of"):
        load_exported(tmp_path / "out").predict(photos)


# torch's exporter takes more than ten seconds for each.
@pytest.mark.slow
@pytest.mark.parametrize("words", [RAN, DIAD], ids=["ran", "diad"])
def test_every_method_is_exported(data, photos, tmp_path, words):
    assert main(["fit", str(data), "-o", str(tmp_path / "model"), *words]) == 0
    assert main(["export", str(tmp_path / "model"), "-o", str(tmp_path / "out")]) == 0
    found = load_exported(tmp_path / "out").predict(photos)
    same(found, mendiff.load(tmp_path / "model").predict(photos))


@pytest.mark.slow  # the exporter, again
def test_parts_are_aligned_as_by_the_model(model, photos, tmp_path):
    loaded = mendiff.load(model)
    loaded.method.config = override(loaded.method.config, {"upright": "always"})
    loaded.save(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), "-o", str(tmp_path / "out")]) == 0
    y, x = np.mgrid[:64, :64]
    turned = 0.8 * (x - 30) + 0.6 * (y - 34), 0.6 * (x - 30) - 0.8 * (y - 34)
    inside = (np.abs(turned[0]) < 22) & (np.abs(turned[1]) < np.where(turned[0] > 0, 3, 6))
    peg = np.where(inside, 220, 20).astype(np.uint8)[..., None].repeat(3, 2)
    found = load_exported(tmp_path / "out").predict([peg, *photos])
    same(found, mendiff.load(tmp_path / "model").predict([peg, *photos]))


@pytest.mark.parametrize("name", ["glad", "diad", "ran"])
def test_the_traced_function_is_the_prediction(name):
    """Replacements for the trace change nothing; the graph itself is compared above."""
    network = {"block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1}
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    changes = {"image_size": 32, "denoiser.network": {**network, **blocks}, "codec.factor": 8}
    small = {"ran": {"gradient.steps": 1}}.get(name, {"readout.bank_size": 50})
    config = override(find_preset(name, "tiny"), {"crop": 0, **changes, **small})
    method = find_method(name)(config).eval()
    for buffer in method.buffers():  # statistics that are not the identity
        if buffer.is_floating_point() and buffer.ndim:
            buffer += 0.1 * torch.rand(buffer.shape, generator=torch.Generator().manual_seed(1)).to(buffer)
    inputs = sample_inputs(method, 2)
    with torch.no_grad():
        score, anomaly_map, _ = DetectionGraph(method)(**inputs)
        expected = method.predict(inputs["image"], torch.arange(2))
    torch.testing.assert_close(score, expected.score)
    torch.testing.assert_close(anomaly_map, expected.anomaly_map)


@pytest.mark.parametrize("count", [2, 7, 64, 1001])
def test_the_median_of_graphs_is_that_of_torch(count):
    values = torch.randn(2, 3, count, generator=torch.Generator().manual_seed(count))
    for keepdim in (False, True):
        expected = values.median(2, keepdim=keepdim).values
        torch.testing.assert_close(lower_median(values, 2, keepdim)[0], expected, rtol=0, atol=5e-6)


WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "scipy", "cv2", "tifffile", "safetensors"}:
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
from mendiff.runtime import load_exported
print(load_exported(sys.argv[1]).predict(sys.argv[2:]).score.tolist())
"""


def test_the_runtime_needs_no_torch(exported, photos):
    words = [sys.executable, "-c", WITHOUT_TORCH, str(exported), *map(str, photos[:2])]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    expected = load_exported(exported).predict(photos[:2]).score.tolist()
    assert json.loads(done.stdout) == pytest.approx(expected, rel=1e-6)


def test_the_example_of_the_documentation_runs(exported, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported, "exported")
    for name, photo in zip(("a.png", "b.png"), photos, strict=False):
        shutil.copy(photo, name)
    names = {}
    exec(example("exported"), names)
    assert names["found"].mask.shape == (2, 1, 32, 32)


def test_predict_takes_an_exported_model(run, model, exported, photos, tmp_path):
    rows = []
    for name, given in (("whole", model), ("graph", exported)):
        code, out, _ = run("predict", given, *photos, "-o", tmp_path / name, "--json")
        assert code == 0
        rows.append(json.loads(out)["images"])
    assert len(rows[0]) == len(photos)
    for ours, theirs in zip(*rows, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], rel=SCORES)
        for column in ("defective", "p_value", "width", "height"):
            assert ours[column] == theirs[column]
    assert (tmp_path / "graph/heat_maps").is_dir()


def test_predict_refuses_what_a_graph_lacks(run, refused, exported, photos, tmp_path):
    words = ("predict", exported, photos[0], "-o", tmp_path / "out")
    assert "expected none for an exported model" in refused(*words, "--category", "nuts")
    assert "expected cpu without --offload" in refused(*words, "--offload")
    assert "expected no bfloat16 in ONNX Runtime" in refused(*words, "--half")
    with pytest.raises(InputError, match="--explain: expected a model folder"):
        open_exported(exported).predict(photos[0], explain=True)


@pytest.mark.parametrize("command", [("info",), ("evaluate", "photos", "-o", "out"), ("export", "-o", "out")])
def test_other_commands_say_that_a_model_is_exported(refused, exported, command):
    name, *words = command
    assert "got an exported model; use it with 'mendiff predict' or mendiff.runtime" in refused(
        name, exported, *words
    )


def test_exports_are_refused_in_one_sentence(refused, model, exported, tmp_path):
    words = ("export", model, "-o", tmp_path / "out")
    assert "--to: expected one of onnx, openvino, got 'tensorrt'" in refused(*words, "--to", "tensorrt")
    assert "--calibrate: expected a folder of good images" in refused(*words, "--precision", "int8")
    assert "for --precision int8 alone, got" in refused(*words, "--calibrate", exported)
    assert "expected one of fp32, fp16, int8, got 'bf16'" in refused(*words, "--precision", "bf16")
    assert "expected a new folder, but it exists" in refused("export", model, "-o", exported)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"resize": "letterbox", "readout.pool_side": 4}, "got pool_side=4"),
        ({"resize": "letterbox", "readout.pool_side": 2}, "readout.pool_side=0"),
    ],
)
def test_models_that_no_graph_computes_are_refused(refused, model, tmp_path, changes, sentence):
    loaded = mendiff.load(model)
    loaded.method.config = override(loaded.method.config, changes)
    loaded.save(tmp_path / "model")
    assert sentence in refused("export", tmp_path / "model", "-o", tmp_path / "out")


def test_what_torch_cannot_trace_is_one_sentence_and_leaves_nothing(refused, model, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("an operator\nthat nobody knows")

    monkeypatch.setattr(torch.export, "export", fail)
    sentence = refused("export", model, "-o", tmp_path / "out")
    assert "RuntimeError: an operator" in sentence


def test_damaged_exports_are_refused(own_export):
    resealed(own_export, version=3)
    with pytest.raises(InputError, match="expected version 1 or 2 of the format, got 3; export the model"):
        load_exported(own_export)
    resealed(own_export, version=1, format="other")
    with pytest.raises(InputError, match="expected format 'mendiff-export', got 'other'"):
        load_exported(own_export)
    resealed(own_export, format="mendiff-export")
    file = own_export / "metadata.json"
    file.write_text(file.read_text().replace('"side": 32', '"side": 64'))
    with pytest.raises(InputError, match="expected the file as it was exported, but it was changed"):
        load_exported(own_export)
    file.unlink()
    with pytest.raises(InputError, match=r"but it has no metadata\.json; export the model again"):
        load_exported(own_export)


def test_a_missing_or_changed_graph_is_refused(own_export):
    with (own_export / "model.onnx").open("ab") as file:
        file.write(b"more")
    with pytest.raises(InputError, match="expected the file as it was exported, but it was changed"):
        load_exported(own_export)
    (own_export / "model.onnx").unlink()
    with pytest.raises(InputError, match="expected this file of the exported model, but it is missing"):
        load_exported(own_export)


@pytest.mark.parametrize(("name", "suffix"), [("onnxruntime", ".onnx"), ("openvino", ".xml")])
def test_a_missing_runtime_and_an_unreadable_graph_are_one_sentence(tmp_path, monkeypatch, name, suffix):
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="expected a graph that this runtime can open"):
        session(file)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=f"expected the package {name}, but it is not installed"):
        session(file)


def test_a_missing_exporter_is_one_sentence(model, tmp_path, monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert 'pip install "mendiff[export]"' in refused("export", model, "-o", tmp_path / "out")


def test_weights_beyond_half_precision_are_refused(own_export):
    file = own_export / "model.onnx"
    graph = onnx.load(file)
    named = (one for one in graph.graph.initializer if one.name.startswith("method.denoiser."))
    weight = max(named, key=lambda one: len(one.raw_data))
    large = np.full(tuple(weight.dims), 1e5, np.float32)
    weight.CopyFrom(onnx.numpy_helper.from_array(large, weight.name))
    onnx.save(graph, file)
    before = file.read_bytes()
    with pytest.raises(InputError, match="precision: expected fp32, because the weight"):
        store_half(file, ["denoiser"])
    assert file.read_bytes() == before


def test_scores_that_are_not_finite_are_refused(exported, photos, monkeypatch):
    opened = load_exported(exported)
    run = opened.run
    monkeypatch.setattr(opened, "run", lambda inputs: run(inputs) | {"score": np.array([1, np.nan])})
    with pytest.raises(NotFiniteError, match="image 1"):
        opened.predict(photos[:2])
    with pytest.raises(InputError, match="expected at least one image"):
        opened.predict([])
