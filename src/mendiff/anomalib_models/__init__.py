"""The methods as anomalib models, and their training with anomalib's Engine.

    from anomalib.data import MVTecAD
    from anomalib.engine import Engine
    from mendiff import Glad

    model, data = Glad(), MVTecAD(category="tile")
    Engine().fit(model, data)        # trains config.training.steps steps, then calibrates
    Engine().test(model, data)
    model.save("tile-model")         # a model folder for `mendiff.load`

Importing this package imports anomalib and Lightning, which takes seconds.
"""

import warnings

with warnings.catch_warnings():  # some of anomalib's models warn on import
    warnings.simplefilter("ignore", FutureWarning)
    from mendiff.anomalib_models.categories import Categories
    from mendiff.anomalib_models.images import GoodImages, GoodTiles
    from mendiff.anomalib_models.models import Diad, Glad, Ran, module_class
    from mendiff.anomalib_models.module import MethodModule
    from mendiff.anomalib_models.processing import ConformalPostProcessor, GoodOnlyPostProcessor
    from mendiff.anomalib_models.training import fit_statistics, quiet, train

__all__ = [
    "Categories",
    "ConformalPostProcessor",
    "Diad",
    "Glad",
    "GoodImages",
    "GoodOnlyPostProcessor",
    "GoodTiles",
    "MethodModule",
    "Ran",
    "fit_statistics",
    "module_class",
    "quiet",
    "train",
]
