"""The layers of the package: who may import whom, and touch files, the network, the terminal or a device.

Every module under src/mendiff is parsed, not imported, so an import inside a function counts like any other.
"""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import NamedTuple

import pytest

# The top-level names of mendiff and their layers. A new part gets one line here (and one in CONTRIBUTING.md).
LAYERS = {
    "types": 1,
    "errors": 1,
    "diffusion": 1,
    "synthesis": 1,
    "scoring": 1,
    "calibration": 1,
    "nets": 2,
    "methods": 3,
    "checkpoints": 4,
    "data": 4,
    "inspection": 4,
    "runtime": 4,
    "model": 4,
    "training": 4,
    "anomalib_models": 5,
    "evaluation": 5,
    "export": 5,
    "report": 5,
    "demo": 5,
    "runs": 6,
    "workflows": 7,
    "cli": 8,
    "__main__": 8,
}
# What a part may import from its own layer, besides itself.
SIDEWAYS = {
    **{part: {"types", "errors"} for part in ("types", "diffusion", "synthesis", "scoring", "calibration")},
    # Model.save calls the store, lazily: the store knows models, and users look for `save` on a model.
    "inspection": {"data"},
    "model": {"checkpoints", "data", "inspection"},
    "checkpoints": {"data", "model", "runtime"},
    # Engine.export writes graphs, as `mendiff export` does.
    "anomalib_models": {"export"},
    "__main__": {"cli"},
    "runtime": {"data"},
    "training": {"checkpoints", "data", "model"},
}
# Third parties: layers 1-3 may use these and no others, layers from 4 on any but these.
# scipy for quantiles of Student's t, which the standard library lacks.
# NumPy for noise that exported models also compute, without torch.
NUMPY_ALONE = {"mendiff.diffusion.noise"}
ALLOWED = {1: {"torch", "torchvision", "sklearn", "scipy"}, 2: {"torch", "diffusers", "timm"}, 3: {"torch"}}
FORBIDDEN = {
    4: {"diffusers", "timm", "anomalib", "lightning", "pytorch_lightning"},
    5: {"diffusers", "timm", "rich", "jsonargparse"},
    6: {"diffusers", "timm", "rich", "jsonargparse"},
    7: {"diffusers", "timm", "rich", "jsonargparse"},
    8: {"diffusers", "timm"},
}

DISK_OR_NETWORK = re.compile(
    r"(os|io|pathlib|shutil|tempfile|glob|fileinput|sqlite3|dbm|shelve|subprocess|zipfile|tarfile|mmap"
    r"|socket|ssl|http|urllib|ftplib|importlib\.resources|builtins\.open"
    r"|torch\.(load|save|hub|from_file|jit\.load|jit\.save|utils\.model_zoo))(\.|$)"
)
PICKLE = re.compile(r"(pickle|torch\.save)(\.|$)")
TERMINAL = re.compile(r"(builtins\.(print|input)|rich|tqdm|sys\.(stdout|stderr))(\.|$)")
DEVICE = re.compile(r"torch\..*(is_available|device_count|current_accelerator)$")

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "mendiff"
FILES = sorted(PACKAGE.rglob("*.py"))


class Use(NamedTuple):
    """A dotted name in a module, aliases resolved ("?." before what nobody imported) and its call, if any."""

    name: str
    line: int
    imported: bool = False
    call: ast.Call | None = None


def imports(tree: ast.AST, package: str) -> Iterator[tuple[str, str, Use]]:
    """Yield (local name, what it stands for, what is imported)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.name if alias.asname else alias.name.partition(".")[0]
                yield alias.asname or bound, bound, Use(alias.name, node.lineno, True)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            above = parents[: len(parents) - node.level + 1] if node.level else []
            for alias in node.names:
                name = ".".join([*above, *filter(None, [node.module]), alias.name])
                yield alias.asname or alias.name, name, Use(name, node.lineno, True)


def uses(tree: ast.AST, package: str) -> Iterator[Use]:
    """Yield all that a module imports, refers to and calls."""
    aliases = {}
    for local, name, use in imports(tree, package):
        aliases[local] = name
        yield use

    def resolve(node: ast.expr, unknown: str) -> str:
        text = ast.unparse(node)
        head, dot, rest = text.partition(".")
        return aliases[head] + dot + rest if head in aliases else f"{unknown}.{text.rpartition('.')[2]}"

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            yield Use(resolve(node, "?"), node.lineno)
        if isinstance(node, ast.Call):
            name = resolve(node.func, "builtins" if isinstance(node.func, ast.Name) else "?")
            yield Use(name, node.lineno, call=node)
            if name.endswith((".import_module", ".__import__")):
                literal = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
                yield from (Use(str(target), node.lineno, imported=True) for target in literal)


def import_fault(module: str, target: str) -> str | None:
    """Say what is wrong with `module` importing `target`, or None."""
    part = module.split(".")[1]
    layer = LAYERS[part]
    top, *below = target.split(".")
    if top != "mendiff":
        allowed = {"numpy"} if module in NUMPY_ALONE else ALLOWED.get(layer)
        banned = top in FORBIDDEN[layer] if allowed is None else top not in allowed
        return (
            f"layer {layer} may not import {top}" if banned and top not in sys.stdlib_module_names else None
        )
    if below == ["__version__"]:
        return None
    other = below[0] if below else ""
    if other not in LAYERS:
        return f"{target} is no part of LAYERS; import a name from its part, not from the front door"
    if other == part:
        return method_fault(module, below)
    if LAYERS[other] > layer:
        return f"layer {layer} looks up to {other} on layer {LAYERS[other]}"
    if LAYERS[other] == layer and other not in SIDEWAYS.get(part, ()):
        return f"{part} looks sideways to {other} on layer {layer}"
    return None


def method_fault(module: str, below: list[str]) -> str | None:
    """Within methods/ only base.py, the registry, imports methods; foo_*.py are part of foo.py."""
    own = module.rpartition(".")[2]
    if below[0] != "methods" or own == "base" or below[1:2] in ([], [own]):
        return None
    if below[1].partition("_")[0] in ("base", own.partition("_")[0]):
        return None
    return f"a method imports another method: {below[1]}; share through methods/base*.py or a lower layer"


def use_fault(module: str, use: Use) -> str | None:
    """Say what is wrong with `module` naming or calling something, or None."""
    layer = LAYERS[module.split(".")[1]]
    if layer <= 3 and DISK_OR_NETWORK.match(use.name):
        return f"layer {layer} touches disk or network: {use.name}"
    if layer <= 7 and TERMINAL.match(use.name):
        return f"layer {layer} talks to the terminal: {use.name}"
    if layer <= 4 and (DEVICE.match(use.name) or (use.call and use.name.endswith(".cuda"))):
        return f"layer {layer} picks a device: {use.name}"
    if PICKLE.match(use.name):
        return f"pickle: {use.name}; weights are safetensors"
    if use.name == "torch.load" and not module.startswith("mendiff.checkpoints.import_"):
        return "torch.load belongs to checkpoints/import_*.py"
    if use.name.endswith(".from_pretrained") and not module.startswith("mendiff.checkpoints"):
        return "from_pretrained belongs to checkpoints/"
    return call_fault(layer, use) if use.call else None


def call_fault(layer: int, use: Use) -> str | None:
    """Say what is wrong with the arguments of a call, or None."""
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in use.call.keywords}
    if use.name == "torch.load" and keywords.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if layer <= 4 and keywords.get("pretrained", "False") != "False":
        return "pretrained= other than False downloads; weights come in through checkpoints/"
    if layer <= 3 and "checkpoint_path" in keywords:
        return f"layer {layer} touches disk or network: checkpoint_path="
    return None


def faults(module: str, source: str, package: str | None = None) -> list[str]:
    """All breaches of the layers in the source text of one module of mendiff, each with its line."""
    part = module.split(".")[1]
    if part not in LAYERS:
        return [f"{module} is on no layer: add {part!r} to LAYERS in tests/test_layers.py"]
    found = set()
    for use in uses(ast.parse(source), package or module.rpartition(".")[0]):
        fault = (use.imported and import_fault(module, use.name)) or use_fault(module, use)
        if fault:
            found.add((use.line, fault))
    return [f"{module}:{line}: {fault}" for line, fault in sorted(found)]


def module_name(path: Path) -> str:
    parts = ("mendiff", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# The front door itself sees every layer; tests/test_startup.py holds that it stays light.
@pytest.mark.parametrize("path", [path for path in FILES if module_name(path) != "mendiff"], ids=module_name)
def test_module_keeps_to_its_floor(path):
    module = module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    assert faults(module, path.read_text(encoding="utf-8"), package) == []


def plain_name(distribution):
    return distribution.lower().replace("_", "-")


def test_third_party_imports_are_declared_dependencies():
    declared = {
        plain_name(re.match(r"[\w.-]+", r)[0])
        for r in requires("mendiff")
        if not re.search("extra == .(test|dev)", r)
    }
    owners = packages_distributions()
    imported = {
        use.name.partition(".")[0]
        for path in FILES
        for use in uses(ast.parse(path.read_text(encoding="utf-8")), module_name(path).rpartition(".")[0])
        if use.imported
    }
    third_party = imported - sys.stdlib_module_names - {"mendiff"}
    undeclared = {
        name for name in third_party if not declared & {plain_name(d) for d in owners.get(name, (name,))}
    }
    assert undeclared == set()


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("mendiff.attic", "x = 1", "add 'attic' to LAYERS in tests/test_layers.py"),
        ("mendiff.attic.box", "x = 1", "add 'attic' to LAYERS in tests/test_layers.py"),
        ("mendiff.diffusion.ddim", "from mendiff.nets.codec import Codec", "looks up to nets"),
        ("mendiff.diffusion.ddim", "def f():\n    import mendiff.methods.base", "looks up to methods"),
        ("mendiff.diffusion.ddim", "from ..scoring import maps", "looks sideways to scoring"),
        ("mendiff.diffusion.ddim", "from mendiff import scoring", "looks sideways to scoring"),
        ("mendiff.errors", "from mendiff.types import Detection", "looks sideways to types"),
        (
            "mendiff.scoring.maps",
            "import importlib\nimportlib.import_module('mendiff.nets')",
            "looks up to nets",
        ),
        ("mendiff.scoring.maps", "import numpy", "may not import numpy"),
        ("mendiff.scoring.maps", "import timm", "may not import timm"),
        ("mendiff.nets.codec", "import safetensors.torch", "may not import safetensors"),
        ("mendiff.methods.glad", "from diffusers import UNet2DModel", "may not import diffusers"),
        ("mendiff.methods.glad", "from mendiff.methods.diad import Diad", "imports another method: diad"),
        ("mendiff.methods.glad", "from . import diad", "imports another method: diad"),
        ("mendiff.methods.glad", "from . import diad_x", "imports another method: diad_x"),
        ("mendiff.data.images", "from mendiff.model import Model", "looks sideways to model"),
        ("mendiff.model", "import mendiff", "not from the front door"),
        ("mendiff.model", "from mendiff import load", "not from the front door"),
        ("mendiff.checkpoints.store", "def f():\n    import anomalib", "may not import anomalib"),
        ("mendiff.checkpoints.store", "from lightning.pytorch import Trainer", "may not import lightning"),
        ("mendiff.model", "import pytorch_lightning as pl", "may not import pytorch_lightning"),
        ("mendiff.demo.parts", "from mendiff.report.page import write", "looks sideways to report"),
        ("mendiff.report.page", "from mendiff.evaluation import metrics", "looks sideways to evaluation"),
        (
            "mendiff.evaluation.run",
            "from mendiff.anomalib_models import Glad",
            "looks sideways to anomalib_models",
        ),
        ("mendiff.evaluation.run", "from mendiff.cli import main", "looks up to cli"),
        ("mendiff.cli", "import timm", "may not import timm"),
        ("mendiff.workflows.fit", "from mendiff.cli import main", "looks up to cli"),
        ("mendiff.workflows.fit", "import rich.table", "may not import rich"),
        ("mendiff.workflows.fit", "print(1)", "talks to the terminal: builtins.print"),
        ("mendiff.evaluation.run", "from mendiff.workflows.fit import fit", "looks up to workflows"),
        ("mendiff.synthesis.blend", "open('texture.png')", "touches disk or network: builtins.open"),
        ("mendiff.synthesis.blend", "from pathlib import Path", "touches disk or network: pathlib.Path"),
        ("mendiff.nets.features", "import os.path", "touches disk or network: os.path"),
        ("mendiff.nets.features", "import urllib.request as r", "touches disk or network: urllib.request"),
        (
            "mendiff.nets.features",
            "import torch as t\nt.hub.load('a', 'b')",
            "touches disk or network: torch.hub",
        ),
        (
            "mendiff.nets.features",
            "import timm\ntimm.create_model('x', checkpoint_path=p)",
            "checkpoint_path=",
        ),
        ("mendiff.nets.features", "import timm\ntimm.create_model('x', pretrained=True)", "pretrained="),
        ("mendiff.nets.features", "import timm\ntimm.create_model('x', pretrained=flag)", "pretrained="),
        (
            "mendiff.nets.codec",
            "def f(net):\n    net.from_pretrained('a')",
            "from_pretrained belongs to checkpoints",
        ),
        (
            "mendiff.methods.glad",
            "from torch import load\nload(p, weights_only=True)",
            "touches disk or network",
        ),
        (
            "mendiff.checkpoints.store",
            "import torch\ntorch.load(p, weights_only=True)",
            "belongs to checkpoints/import_",
        ),
        ("mendiff.checkpoints.import_glad", "import torch\ntorch.load(p)", "without weights_only=True"),
        (
            "mendiff.checkpoints.import_glad",
            "import torch\ntorch.load(p, weights_only=False)",
            "without weights_only",
        ),
        ("mendiff.cli", "import torch\ntorch.save(m, p)", "pickle: torch.save"),
        ("mendiff.evaluation.run", "import pickle", "pickle: pickle"),
        ("mendiff.model", "print('done')", "talks to the terminal"),
        ("mendiff.model", "import sys\nsys.stderr.write('done')", "talks to the terminal"),
        ("mendiff.model", "from tqdm import tqdm", "talks to the terminal"),
        ("mendiff.methods.glad", "import torch\nok = torch.cuda.is_available()", "picks a device"),
        ("mendiff.model", "from torch.cuda import is_available", "picks a device"),
        ("mendiff.model", "import torch\ntorch.backends.mps.is_available()", "picks a device"),
        ("mendiff.model", "def f(net):\n    net.cuda()", "picks a device"),
    ],
)
def test_checker_catches_breach(module, source, expected):
    found = faults(module, source)
    assert len(found) >= 1
    assert any(expected in fault for fault in found), found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "mendiff.diffusion.ddim",
            "import torch.nn.functional as F\nfrom mendiff.types import Estimate\nF.pad(x)",
        ),
        ("mendiff.diffusion.ddim", "from .schedule import NoiseSchedule\nfrom ..errors import InputError"),
        ("mendiff.diffusion.ddim", "def f(input, open, io):\n    return open + input + io.shape"),
        ("mendiff.nets.features", "import timm\ntimm.create_model('x', pretrained=False)"),
        ("mendiff.methods.base", "def f():\n    from mendiff.methods.glad import Glad"),
        ("mendiff.methods.glad", "from mendiff.methods.glad_settings import SETTINGS"),
        ("mendiff.methods.glad_config", "from mendiff.methods.base_config import TIMESTEPS"),
        (
            "mendiff.methods.glad",
            "from mendiff.methods.base import Method\nfrom mendiff.nets.codec import Codec",
        ),
        ("mendiff.checkpoints.store", "from pathlib import Path\nfrom safetensors.torch import load_file"),
        ("mendiff.checkpoints.store", "from mendiff import __version__\nfrom mendiff.model import Model"),
        (
            "mendiff.checkpoints.import_glad",
            "import torch\ntorch.load(p, weights_only=True, map_location='cpu')",
        ),
        ("mendiff.model", "def f(device):\n    return net.to(device)"),
        ("mendiff.model", "import torch\nfull = torch.cuda.OutOfMemoryError"),
        ("mendiff.evaluation.run", "import anomalib\nfrom mendiff.model import Model"),
        ("mendiff.cli", "from mendiff.report.page import write\nfrom mendiff.anomalib_models import Glad"),
        ("mendiff.cli", "from mendiff.workflows.fit import fit"),
        (
            "mendiff.workflows.demo",
            "from mendiff.workflows.fit import fit\nfrom mendiff.demo.data import make_data\n"
            "from mendiff.data.dataset import open_data\nfrom mendiff.anomalib_models import train",
        ),
    ],
)
def test_checker_lets_proper_code_pass(module, source):
    assert faults(module, source) == []
