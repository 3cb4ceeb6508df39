"""What `import mendiff` and `mendiff --help` load, and the names on the front door."""

import json
import subprocess
import sys

import pytest

import mendiff

HEAVY = ("torch", "torchvision", "anomalib", "lightning", "pytorch_lightning", "diffusers", "timm", "scipy")

HELP = """
from mendiff.cli import main
try:
    code = main(["--help"])
except SystemExit as end:
    code = end.code
assert code in (0, None), code
"""


def run_fresh(code: str) -> tuple[str, set[str]]:
    """Run `code` in a new interpreter; return its output and the heavy packages that it loaded."""
    report = f"import json, sys\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    output, _, loaded = done.stdout.rstrip("\n").rpartition("\n")
    return output, set(json.loads(loaded))


def test_fresh_run_sees_heavy_packages():
    assert "torch" in run_fresh("import torch")[1]


def test_the_package_runs_as_a_module():
    words = [sys.executable, "-m", "mendiff", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
    assert mendiff.__version__ in done.stdout


def test_import_pulls_no_torch():
    assert run_fresh("import mendiff")[1] == set()


def test_help_pulls_no_torch():
    output, loaded = run_fresh(HELP)
    assert "usage: mendiff" in output
    assert loaded == set()


@pytest.mark.parametrize("name", mendiff.__all__)
def test_exported_name_resolves_and_is_listed(name):
    assert getattr(mendiff, name) is not None
    assert name in dir(mendiff)


def test_detection_is_the_one_of_types():
    from mendiff.types import Detection

    assert mendiff.Detection is Detection


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nonesuch'"):
        mendiff.Nonesuch  # noqa: B018
