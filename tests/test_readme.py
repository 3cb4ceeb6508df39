"""Python examples of README and docs run as they stand, on small data; their command lines are valid ones."""

import contextlib
import importlib
import io
import math
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mendiff.cli import main
from mendiff.cli.command import COMMANDS
from mendiff.data.dataset import NAMES
from mendiff.data.images import save_png
from mendiff.data.reading import read_image
from mendiff.data.samples import Category
from mendiff.errors import InputError
from mendiff.evaluation.suites import SUITES
from mendiff.methods.base import METHODS, find_preset
from mendiff.runs.fit_checks import BALANCES, STATISTICS, check_prompts
from mendiff.runs.fit_config import Plan, check_sources, stated_config
from mendiff.workflows.bench import Bench, SharedInputs, chosen_rows, planned, with_shared_inputs
from mendiff.workflows.fit_codec import PRESETS as CODECS
from mendiff.workflows.fit_features import PRESETS as FEATURES
from mendiff.workflows.spec import BASELINES

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = ("pip", "git", "pytest", "hf")


def example(name):
    marked = rf"<!-- example: {name} -->\n```python\n(.*?)```"
    found = [one for page in PAGES for one in re.findall(marked, page.read_text(encoding="utf-8"), re.DOTALL)]
    assert len(found) == 1, f"expected one example {name} in README and docs"
    return found[0]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A working folder with a.png, b.png and parts/ in MVTec layout."""
    rng = torch.Generator().manual_seed(0)
    places = ["a.png", "b.png"]
    places += [f"parts/train/good/{number}.png" for number in range(10)]
    places += [f"parts/test/{kind}/{number}.png" for kind in ("good", "scratch") for number in range(2)]
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        save_png(
            torch.randint(0, 256, (40, 48, 3), generator=rng, dtype=torch.uint8).numpy(), tmp_path / place
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_readme_example(photos, tiny_config, monkeypatch):
    from mendiff.methods.glad import Glad

    monkeypatch.setattr(Glad, "PRESETS", {"tiny": tiny_config("glad", {"training.steps": 2})})
    shutil.copytree(photos / "parts/train/good", photos / "photos/good")
    shutil.copytree(photos / "parts", photos / "mvtec/bottle")
    names = {}
    exec(example("readme"), names)
    assert names["defective"].shape == (2,)
    assert "bottle" in names["measured"].categories


def test_every_python_block_is_an_example_that_runs():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("```python") == len(re.findall(r"<!-- example: \w+ -->\n```python", text)), (
            page.name
        )


def test_readme_is_short_and_every_link_of_the_pages_leads_somewhere():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_python_example(photos, tiny_config, monkeypatch):
    from mendiff.methods.glad import Glad

    monkeypatch.setattr(Glad, "PRESETS", {"tiny": tiny_config("glad", {"training.steps": 2})})
    names = {}
    exec(example("python"), names)
    assert names["found"].reconstruction.shape == (2, 3, 32, 32)
    assert tuple(names["found"].defective.shape) == (2,)
    assert "parts" in names["measured"].categories
    assert names["mendiff"].load(photos / "model").threshold == names["model"].threshold


def test_lights_example(photos):
    levels = [40, 120, 200]
    for name, level in zip(("left", "right", "top"), levels, strict=True):
        save_png(np.full((8, 9), level, np.uint8), photos / f"{name}.png")
    exec(example("lights"), {})
    assert (read_image("part.png") == levels).all()


def test_monitor_example(photos, tiny_method):
    from mendiff.calibration import Calibration
    from mendiff.checkpoints import store

    store.save(photos / "model", "glad", tiny_method(), Calibration((1.0, 2.0, 3.0), (1.0, 2.0, 3.0)), {})
    assert main(["predict", "model", "parts/train/good", "-o", "findings", "--device", "cpu"]) == 0
    names = {}
    exec(example("monitor"), names)
    assert len(names["result"].p_values) == 10


def test_tiles_example(photos, tiny_config, monkeypatch):
    from mendiff.methods.glad import Glad

    monkeypatch.setattr(Glad, "PRESETS", {"tiny": tiny_config("glad", {"training.steps": 2})})
    shutil.copytree(photos / "parts/train/good", photos / "boards/good")
    for number, name in ((1, "a.png"), (2, "b.png")):
        shutil.copy(photos / name, photos / f"boards/{number}.png")
    save_png(torch.full((40, 48), 255, dtype=torch.uint8).numpy(), photos / "region.png")
    names = {}
    exec(example("tiles").replace("256", "32"), names)
    assert names["model"].geometry.tile == 32
    assert tuple(names["first"].shape) == (40, 48)


def test_anomalib_example(photos, tiny_config, monkeypatch):
    import mendiff
    from mendiff.methods.glad import Glad

    small = tiny_config("glad", {"training.steps": 2})
    monkeypatch.setattr(Glad, "PRESETS", {"tiny": small})
    exec(example("anomalib"), {})
    model = mendiff.load(photos / "model")
    assert model.calibration.held_back == 4
    assert model.predict("a.png").score.isfinite().all()


def test_postprocessor_example(photos, monkeypatch):
    names = {}
    exec(example("postprocessor"), names)
    assert 0 < float(names["model"].post_processor.image_threshold) < math.inf


# Command lines: those of the README and of --help are parsed, and checked as far as that needs no files.


def commands_of(text):
    """The command lines of mendiff in some lines of shell, as words."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        words = shlex.split(line, comments=True)
        for part in " ".join(map(shlex.quote, words)).split(" '&&' "):
            words = shlex.split(part)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words and words[0] == "mendiff":
                yield words[1:]
            elif words:
                assert words[0] in OTHERS, f"not a command of mendiff, nor of {OTHERS}: {part}"


def shown_commands():
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    blocks = [block for text in texts for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)]
    return [command for block in blocks for command in commands_of(block)]


HELP = [words for one in COMMANDS for example in one.options.EXAMPLES for words in commands_of(example)]


def refusal(words):
    """Why a command line would be refused before it reads a file, or nothing."""
    given = {}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as told:
        room = SimpleNamespace(run=lambda options, reporter: given.update(vars(options)) or {})
        load = importlib.import_module
        patch.setattr(
            importlib, "import_module", lambda name: room if "mendiff.workflows." in name else load(name)
        )
        code = main(words)
    if code:
        return told.getvalue() or "no command"
    try:
        check_words(words[0], given)
    except InputError as error:
        return str(error)
    return ""


def check_words(command, given):
    """Refuse names that no code knows, and settings that do not go together."""
    for option, known in (("layout", NAMES), ("statistics", STATISTICS), ("balance", BALANCES)):
        if given.get(option) is not None and given[option] not in known:
            raise InputError(f"--{option}: expected one of {known}, got {given[option]!r}.")
    if given.get("preset") == "auto":
        given = given | {"preset": "small"}
    if command in ("fit", "plan", "demo"):
        plan = Plan(
            given["method"],
            given.get("preset", "tiny"),
            given["settings"],
            given.get("features"),
            statistics=given.get("statistics", "global"),
            pretrained=given.get("pretrained"),
        )
        config = stated_config(plan)
        if command == "fit":
            check_sources(plan, config)
            names = getattr(config.denoiser, "categories", ()) or ("part",)
            check_prompts(plan, config, [Category(name, None, (), ()) for name in names])
    elif command == "fit-codec":
        assert given["preset"] in CODECS
    elif command == "fit-features":
        assert given["preset"] in FEATURES
    elif command == "convert" and given["kind"] in METHODS:
        find_preset(given["kind"], given["preset"])
    elif command == "benchmark":
        check_benchmark(given)


def check_benchmark(given):
    """The same of a benchmark, as it checks itself before anything is run."""
    from mendiff.anomalib_models.baselines import baseline_class  # takes seconds

    if given["suite"] is not None and given["suite"] not in SUITES:
        raise InputError(f"--suite: expected one of {', '.join(SUITES)}, got {given['suite']!r}.")
    suite, preset = SUITES.get(given["suite"]), given["preset"]
    rows, together = chosen_rows(suite, given["ablation"], given["methods"], given["settings"], preset)
    for row in rows:
        assert row.method in (*METHODS, *BASELINES) or baseline_class(row.method)
    names = list(suite.categories) if suite else ["part"]
    bench = Bench(
        rows, names, together or given["multi_class"], Path("."), "auto", (0,), preset, None, None, suite
    )
    extras = SharedInputs(
        *(given[name] for name in ("pretrained", "prompt", "codec", "textures", "statistics"))
    )
    for job in with_shared_inputs(planned(bench, "cpu"), extras).values():
        if job.method in METHODS:
            config = stated_config(job.plan)
            check_sources(job.plan, config)
            check_prompts(job.plan, config, [Category(name, None, (), ()) for name in job.categories])


@pytest.mark.parametrize("words", [*shown_commands(), *HELP], ids=" ".join)
def test_every_command_line_that_is_shown_is_one(words):
    assert refusal(words) == ""


def test_command_lines_are_found_in_all_their_forms():
    text = (
        "pip install . && mendiff demo\nA=1 mendiff fit x -o y \\\n    --steps 3   # so many\ngit clone x\n"
    )
    assert list(commands_of(text)) == [["demo"], ["fit", "x", "-o", "y", "--steps", "3"]]
    assert len(shown_commands()) >= 15
    with pytest.raises(AssertionError, match="not a command"):
        list(commands_of("mendif fit x"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("fit photos", "expected -o/--out DIR"),
        ("fit photos -o model --colour red", "--colour"),
        ("fit photos -o model --preset papre", "preset: expected one of"),
        ("fit photos -o model --method glat", "method: expected one of"),
        ("fit photos -o model --preset paper/mvtec/cable", "--pretrained: expected"),
        ("fit mvtec -o model --preset paper/mvtec --pretrained a/b", "--statistics: expected category"),
        ("fit photos -o model --set training.step=3", "training: expected some of"),
        ("fit photos -o model --statistics each", "--statistics: expected one of"),
        ("predict model -o findings", "expected IMAGES"),
        ("benchmark mvtec -o runs --suite glad-mvtek", "--suite: expected one of"),
        ("benchmark mvtec -o runs --ablation diad-sf", "--ablation: expected one of"),
        ("benchmark mvtec -o runs --suite glad-mvtec --preset paper", "--pretrained: expected"),
        ("benchmark mvtec -o runs --methods patchkore", "methods: expected one of"),
        ("benchmark mvtec -o runs --methods ran --pretrained a/b", "--pretrained: expected rows that accept"),
        ("bench mvtec -o runs", "bench"),
    ],
)
def test_a_command_line_with_a_slip_would_not_pass(line, reason):
    assert reason in refusal(line.split())


def test_every_option_that_readme_and_docs_name_is_there():
    known = set()
    for one in COMMANDS:
        known |= {one.flag(name) for name in one.fields}
    known |= {"--set", "--json", "--config", "--help", "--no-deps"}  # the last is an option of pip
    pages = [page for page in PAGES if page.name != "results-in-full.md"]  # which names scripts' options, too
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert named - known == set()
