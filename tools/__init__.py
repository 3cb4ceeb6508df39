"""Development of the bundled networks: image generators, teachers, training, assessment.

    python -m tools.train_features --help
    python -m tools.train_codec --help

Run from the root of the repository with an editable installation (`pip install -e .`), so that `--install`
writes to the package. The package contains the resulting weights and never imports this code.
"""
