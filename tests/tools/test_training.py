"""Both trainings in miniature: a few steps on tiny images."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mendiff.checkpoints.codecs import open_codec
from mendiff.errors import InputError
from mendiff.nets.student import STAGES, Student, StudentConfig, StudentFeatures
from mendiff.training.optimizers import learning_rate
from tools import train_codec, train_features
from tools.stream import RoundsConfig, batches
from tools.teacher import Teacher, Whitenings, distance, explained
from tools.training import CHECKPOINT, LOG, Run, read_log, schedule

SMALL = [
    "--size",
    "48",
    "--batch",
    "2",
    "--round",
    "2",
    "--passes",
    "2",
    "--workers",
    "0",
    "--categories",
    "0",
]
SMALL += ["--device", "cpu", "--threads", "1", "--quiet"]


@pytest.fixture(autouse=True)
def few_held_back(monkeypatch):
    monkeypatch.setattr(train_features, "HELD_BACK", 1)
    monkeypatch.setattr(train_features, "FITTED", 4)
    monkeypatch.setattr(train_codec, "HELD_BACK", 2)


@pytest.fixture
def features(teacher_weights):
    """The command line of the feature network's training."""
    named = [
        "--teacher",
        "mobilenetv2_035",
        "--teacher-weights",
        str(teacher_weights),
        "--teacher-input",
        "tflite",
    ]
    return train_features.main, [*SMALL, *named]


@pytest.fixture
def codec():
    """The command line of the codec's training."""
    return train_codec.main, [*SMALL, "--crop", "32"]


@pytest.mark.parametrize(("command", "result"), [("features", "features.safetensors"), ("codec", "codec")])
def test_resumed_training_ends_where_an_unbroken_one_does(command, result, request, tmp_path, monkeypatch):
    main, options = request.getfixturevalue(command)
    assert main([*options, "-o", str(tmp_path / "whole"), "--steps", "6"]) == 0
    advance = Run.advance

    def interrupted(run, step, *arguments):
        advance(run, step, *arguments)
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "advance", interrupted)
    assert main([*options, "-o", str(tmp_path / "broken"), "--steps", "6"]) == 130
    assert not (tmp_path / "broken" / result).exists()
    monkeypatch.setattr(Run, "advance", advance)
    assert main([*options, "--passes", "1", "--seed", "5", "-o", str(tmp_path / "broken"), "--resume"]) == 0
    name = result if result.endswith("safetensors") else f"{result}/codec.safetensors"
    whole, broken = (load_file(tmp_path / place / name) for place in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    assert all(torch.equal(one, broken[key]) for key, one in whole.items())
    steps = [line["step"] for line in read_log(tmp_path / "broken" / LOG)]
    assert steps == sorted(steps)
    assert steps[-2:] == [6, 6]  # the last step, and the assessment


def test_trained_features_are_half_precision_and_can_be_used(features, tmp_path):
    main, options = features
    assert main([*options, "-o", str(tmp_path), "--steps", "2"]) == 0
    weights = load_file(tmp_path / "features.safetensors")
    assert {one.dtype for one in weights.values()} == {torch.float16}
    channels = [weights[f"heads.{stage}.bias"].numel() for stage in range(3)]
    ours = StudentFeatures({"outputs": channels}, STAGES)
    ours.load_backbone({key: one.float() for key, one in weights.items()}, "trained")
    assert torch.isfinite(ours(torch.rand(1, 3, 32, 32))[2]).all()


def test_trained_codec_is_a_codec_folder_of_half_precision(codec, tmp_path):
    main, options = codec
    assert main([*options, "-o", str(tmp_path), "--steps", "2"]) == 0
    trained = open_codec(tmp_path / "codec")
    assert (trained.factor, trained.channels) == (8, 16)
    assert {one.dtype for one in load_file(tmp_path / "codec/codec.safetensors").values()} == {torch.float16}
    assessed = json.loads((tmp_path / LOG).read_text().splitlines()[-1])["judged"]
    assert assessed.keys() == {"psnr", "ssim"}


def test_codec_sees_cuts_of_its_size_and_some_of_them_are_enlarged():
    fine = (torch.arange(64) % 2).expand(2, 3, 64, 64).float()  # neighbours differ by one, the most there is
    cuts = [train_codec.zoomed_crops(fine, 32, torch.Generator().manual_seed(number)) for number in range(40)]

    assert {one.shape for one in cuts} == {(2, 3, 32, 32)}
    assert all(one.min() >= 0 and one.max() <= 1 for one in cuts)
    plain = [bool((one.diff(dim=-1).abs() == 1).all()) for one in cuts]
    assert 10 < sum(plain) < 30


def test_most_images_get_other_colours_and_keep_their_drawing():
    rng = torch.Generator().manual_seed(0)
    grey = torch.rand(60, 1, 16, 16, generator=rng).expand(60, 3, 16, 16)
    seen = train_codec.coloured(grey, rng)

    assert 0 <= float(seen.min()) <= float(seen.max()) <= 1
    unchanged = [bool(torch.equal(a, b)) for a, b in zip(seen, grey, strict=True)]
    assert 12 < sum(unchanged) < 36
    # Every channel of a recoloured grey image is a straight line over its brightness.
    flat = torch.stack([grey[:, 0].flatten(1), seen[:, 0].flatten(1)], dim=1)
    for pair in flat:
        assert abs(float(torch.corrcoef(pair)[0, 1])) > 0.999


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (["--steps", "4", "--minutes", "1"], "expected one of them"),
        ([], "expected one of them"),
        (["--steps", "0"], "--steps: expected at least 1"),
        (["--steps", "4", "--size", "50"], "--size: expected a multiple of 16"),
        (["--steps", "4", "--batch", "1"], "--batch: expected at least 2"),
        (["--resume"], "--resume: expected a training in"),
        (
            ["--steps", "4", "--features", "auto", "--features-weights", "x"],
            "or --features auto without a file",
        ),
    ],
)
def test_bad_options_are_one_line(change, expected, codec, tmp_path, capsys):
    main, options = codec
    assert main([*options, "-o", str(tmp_path / "out"), *change]) == 2
    told = capsys.readouterr().err.strip()
    assert expected in told
    assert "\n" not in told


def test_folder_of_a_training_is_not_begun_anew(codec, tmp_path, capsys):
    main, options = codec
    (tmp_path / CHECKPOINT).write_bytes(b"")
    assert main([*options, "-o", str(tmp_path), "--steps", "2"]) == 2
    assert "it contains a training" in capsys.readouterr().err


def test_checkpoint_of_another_network_is_refused(tmp_path):
    Run(torch.nn.Linear(2, 3), schedule(4), tmp_path).save()
    with pytest.raises(InputError, match="has another shape of 'bias'"):
        Run(torch.nn.Linear(2, 4), schedule(4), tmp_path).resume()


def test_minutes_become_steps(codec, tmp_path, monkeypatch):
    main, options = codec
    monkeypatch.setattr("tools.train_codec.seconds_per_step", lambda *_: 0.5)
    assert main([*options, "-o", str(tmp_path), "--minutes", "0.025"]) == 0
    assert read_log(tmp_path / LOG)[-1]["step"] == 3


def test_log_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path):
    (tmp_path / LOG).write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_log(tmp_path / LOG) == [{"step": 1}, {"step": 2}]


def test_rate_rises_and_falls_to_zero():
    plan = schedule(1000, rate=0.1)
    rates = [plan.learning_rate * learning_rate(plan, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.001)
    assert max(rates) == pytest.approx(0.1, rel=0.03)
    assert rates.index(max(rates)) in (98, 99, 100)
    assert rates[-1] < 1e-5


def test_average_follows_the_weights(tmp_path):
    network = torch.nn.Linear(1, 1)
    run = Run(network, schedule(100, average=0.5), tmp_path)
    for step in range(40):
        run.learner.descend(network(torch.ones(1, 1)).square().mean(), step)
    trained = network.weight.detach().clone()
    with run.averaged() as averaged:
        assert not torch.equal(averaged.weight, trained)
        torch.testing.assert_close(averaged.weight.detach(), trained, rtol=0, atol=0.02)
        assert not averaged.training
    assert torch.equal(network.weight, trained)


# What is shown.


@pytest.mark.parametrize("steps", [400, 401, 599])
def test_held_back_images_are_looked_at_about_twenty_times(tmp_path, steps):
    run = Run(torch.nn.Linear(1, 1), schedule(steps), tmp_path)
    source = [[torch.ones(1, 1)]] * steps
    network = run.learner.network
    run.learn(source, lambda batch: network(batch[0]).sum(), lambda: {"held_back": 1.0}, lambda *_: None)
    told = [line["step"] for line in read_log(tmp_path / LOG) if "held_back" in line]
    assert 20 <= len(told) <= 30
    assert told[-1] == steps


def test_batches_depend_on_the_step_alone():
    config = RoundsConfig(seed=1, size=32, batch=3, batches=2, passes=2, workers=0)
    whole = [one for (one,) in batches(config, 0, 9, None)]
    late = [one for (one,) in batches(config, 5, 9, None)]
    assert len(whole) == 9
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(late, whole[5:], strict=True))


def test_every_image_of_a_round_is_shown_once_per_pass():
    config = RoundsConfig(seed=1, size=32, batch=3, batches=2, passes=2, workers=0)
    shown = [one for (batch,) in batches(config, 0, 4, None) for one in batch]
    first, second = shown[:6], shown[6:]
    assert len({one.numpy().tobytes() for one in first}) == 6
    assert {one.numpy().tobytes() for one in first} == {one.numpy().tobytes() for one in second}
    assert [one.sum() for one in first] != [one.sum() for one in second]


def test_workers_draw_the_same_images():
    config = RoundsConfig(seed=1, size=32, batch=2, batches=2, passes=1, workers=0)
    other = RoundsConfig(seed=1, size=32, batch=2, batches=2, passes=1, workers=1)
    for ours, theirs in zip(batches(config, 0, 4, None), batches(other, 0, 4, None), strict=True):
        assert torch.equal(ours[0], theirs[0])


def test_descriptions_belong_to_their_images():
    config = RoundsConfig(seed=1, size=32, batch=3, batches=2, passes=2, workers=0)
    for image, described in batches(config, 0, 4, lambda batch: [batch.mean((1, 2, 3))]):
        torch.testing.assert_close(described, image.mean((1, 2, 3)), rtol=1e-3, atol=1e-3)


# What is learned.


@pytest.fixture
def teacher(teacher_weights):
    extractor, _ = train_features.open_teacher("mobilenetv2_035", teacher_weights, "tflite")
    return extractor


@pytest.mark.parametrize("same", [True, False])
def test_teacher_describes_the_cut(teacher, same, rng):
    wrapped = Teacher(teacher, same=same)
    image = torch.rand(2, 3, 64, 96, generator=rng)
    assert wrapped.cut(image).shape == (2, 3, 48, 80)
    with torch.no_grad():
        shapes = [tuple(one.shape[-2:]) for one in wrapped(image)]
    assert shapes == [(12, 20), (6, 10), (3, 5)]


def test_folding_the_teachers_norms_changes_nothing(teacher_weights, rng):
    plain, _ = train_features.open_teacher("mobilenetv2_035", teacher_weights, "tflite")
    again, _ = train_features.open_teacher("mobilenetv2_035", teacher_weights, "tflite")
    with torch.no_grad():
        for network in (plain, again):
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.running_var.fill_(1.7)
                    module.running_mean.fill_(0.1)
        image = torch.rand(1, 3, 64, 64, generator=rng)
        folded = Teacher(again, same=True).features
        assert not [one for one in folded.modules() if isinstance(one, torch.nn.BatchNorm2d)]
        for ours, theirs in zip(folded(image), plain(image), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def correlated(rng):
    mix = torch.tensor([[3.0, 0.5], [0.0, 0.2]])
    noise = torch.randn(8, 2, 12, 12, generator=rng)
    place = 5 * torch.randn(8, 2, 1, 1, generator=rng)  # of the image, which whitening leaves out
    return torch.einsum("dc,bchw->bdhw", mix, noise) + place + 7


def test_whitened_features_have_unit_covariance_within_images(rng):
    features, whitenings = correlated(rng), Whitenings((2,))
    whitenings.fit([[features[:4]], [features[4:]]])
    white = whitenings([features])[0]
    within = (white - white.mean((2, 3), keepdim=True)).transpose(0, 1).flatten(1)
    variances = torch.linalg.eigvalsh(within @ within.T / within.shape[1])
    raw = (features - features.mean((2, 3), keepdim=True)).transpose(0, 1).flatten(1)
    before = torch.linalg.eigvalsh(raw @ raw.T / raw.shape[1])
    assert variances[1] == pytest.approx(0.87, abs=0.05)  # 1 / (1 + 0.3 / 2): shrinkage takes the rest
    assert variances[0] / variances[1] > 10 * before[0] / before[1] / 3
    assert white.mean().abs() < 0.5


def test_student_that_says_whitened_features_says_the_teachers_own_at_the_end(rng):
    student = Student(StudentConfig((2, 3, 4, 5), (0, 0, 0), (3, 4, 5), (2, 2, 2)))
    whitenings = Whitenings((2, 2, 2))
    whitenings.fit([[correlated(rng) for _ in range(3)]])
    image = torch.rand(1, 3, 32, 32, generator=rng)
    white = student(image)
    whitenings.undone_by(student)
    for said, own in zip(white, whitenings(student(image)), strict=True):
        torch.testing.assert_close(said, own, rtol=1e-3, atol=1e-3)


def test_distance_is_zero_for_the_same_and_grows_with_the_error(rng):
    meant = [torch.randn(2, 4, 6, 6, generator=rng)]
    errors = [torch.randn(2, 4, 6, 6, generator=rng)]
    values = [float(distance([meant[0] + share * errors[0]], meant)) for share in (0.0, 0.1, 0.5, 2.0)]
    assert values[0] == pytest.approx(0, abs=1e-5)
    assert values == sorted(values)


def test_explained_share_is_one_for_all_and_zero_for_an_even_guess(rng):
    meant = [torch.randn(2, 4, 6, 6, generator=rng)]
    assert explained(meant, meant) == [1.0]
    even = [meant[0].mean((2, 3), keepdim=True).expand(2, 4, 6, 6)]
    assert explained(even, meant) == [pytest.approx(0, abs=1e-5)]


def test_a_short_training_brings_the_student_nearer(features, tmp_path):
    main, options = features
    assert main([*options, "-o", str(tmp_path), "--steps", "60", "--round", "6", "--rate", "0.005"]) == 0
    held_back = [line["held_back"] for line in read_log(tmp_path / LOG) if "held_back" in line]
    assert held_back[-1] < held_back[0]


def test_teachers_padding_is_what_was_told(teacher_weights, tmp_path):
    weights = load_file(teacher_weights)
    moved = {key: one + 1 if key.endswith("running_mean") else one for key, one in weights.items()}
    save_file(moved, tmp_path / "pytorch.safetensors")
    assert train_features.open_teacher("mobilenetv2_035", teacher_weights, "tflite")[1]
    assert not train_features.open_teacher("mobilenetv2_035", teacher_weights, "timm")[1]
    with pytest.raises(InputError, match="running means are zero"):
        train_features.open_teacher("mobilenetv2_035", teacher_weights)
    assert not train_features.open_teacher("mobilenetv2_035", tmp_path / "pytorch.safetensors")[1]
