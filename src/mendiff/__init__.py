"""Diffusion models for visual anomaly detection: mend the image, diff it, see the defect."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mendiff.anomalib_models import Diad, Glad, Ran
    from mendiff.checkpoints.store import load
    from mendiff.data.masks import read_mask
    from mendiff.data.reading import Reading, read_image
    from mendiff.errors import InputError
    from mendiff.inspection import Inspection
    from mendiff.model import Model
    from mendiff.types import Detection
    from mendiff.workflows.front import benchmark, check, distill, evaluate, fit, monitor, tune

__version__ = "0.1.0"

__all__ = [
    "ConformalPostProcessor",
    "Detection",
    "Diad",
    "Glad",
    "InputError",
    "Inspection",
    "Model",
    "Ran",
    "Reading",
    "__version__",
    "benchmark",
    "check",
    "distill",
    "evaluate",
    "fit",
    "load",
    "monitor",
    "read_image",
    "read_mask",
    "tune",
]

# Names that are imported on first use, so that `import mendiff` pulls no torch.
_HOMES = {
    "Detection": "mendiff.types",
    "ConformalPostProcessor": "mendiff.anomalib_models",
    "Diad": "mendiff.anomalib_models",
    "Glad": "mendiff.anomalib_models",
    "Ran": "mendiff.anomalib_models",
    "InputError": "mendiff.errors",
    "Inspection": "mendiff.inspection",
    "Model": "mendiff.model",
    "Reading": "mendiff.data.reading",
    "benchmark": "mendiff.workflows.front",
    "check": "mendiff.workflows.front",
    "distill": "mendiff.workflows.front",
    "evaluate": "mendiff.workflows.front",
    "fit": "mendiff.workflows.front",
    "load": "mendiff.checkpoints.store",
    "monitor": "mendiff.workflows.front",
    "read_image": "mendiff.data.reading",
    "read_mask": "mendiff.data.masks",
    "tune": "mendiff.workflows.front",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
