"""The anomalib model of every method."""

from __future__ import annotations

from functools import cache

from anomalib.metrics import Evaluator
from anomalib.models.components.base import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer

from mendiff.anomalib_models.module import MethodModule
from mendiff.methods.base import find_method
from mendiff.methods.diad_config import DiadConfig
from mendiff.methods.glad_config import GladConfig
from mendiff.methods.ran_config import RanConfig


class Glad(MethodModule, AnomalibModule):
    """GLAD for anomalib; `get_model("glad")` finds it after `from mendiff import Glad`.

    Args: those of MethodModule.
    """

    _method_name = "glad"
    config: GladConfig

    def __init__(
        self,
        config: GladConfig | None = None,
        preset: str = "tiny",
        features_weights: str | None = None,
        seed: int = 0,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        parts = (pre_processor, post_processor, evaluator, visualizer)
        super().__init__(config, preset, features_weights, seed, *parts)


class Diad(MethodModule, AnomalibModule):
    """DiAD for anomalib; `get_model("diad")` finds it after `from mendiff import Diad`.

    Args: those of MethodModule.
    """

    _method_name = "diad"
    config: DiadConfig

    def __init__(
        self,
        config: DiadConfig | None = None,
        preset: str = "tiny",
        features_weights: str | None = None,
        seed: int = 0,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        parts = (pre_processor, post_processor, evaluator, visualizer)
        super().__init__(config, preset, features_weights, seed, *parts)


class Ran(MethodModule, AnomalibModule):
    """RAN for anomalib; `get_model("ran")` finds it after `from mendiff import Ran`.

    Args: those of MethodModule.
    """

    _method_name = "ran"
    config: RanConfig

    def __init__(
        self,
        config: RanConfig | None = None,
        preset: str = "tiny",
        features_weights: str | None = None,
        seed: int = 0,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        parts = (pre_processor, post_processor, evaluator, visualizer)
        super().__init__(config, preset, features_weights, seed, *parts)


OWN = {kind._method_name: kind for kind in (Diad, Glad, Ran)}
"""Methods with their own class, whose signature anomalib's command line can read."""


@cache
def module_class(name: str) -> type[MethodModule]:
    """The anomalib model of a method in METHODS: its class in OWN, otherwise a generated class.

    After the first call, `get_model(name)` finds generated classes, too.
    """
    kind = find_method(name)
    if name in OWN:
        return OWN[name]
    contents = {"_method_name": name, "__module__": __name__, "__doc__": f"{kind.__name__} for anomalib."}
    return type(kind.__name__, (MethodModule, AnomalibModule), contents)
