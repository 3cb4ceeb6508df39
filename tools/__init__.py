"""The workshop of the networks that come with mendiff: generators of images, teachers, training, judging.

    python -m tools.train_features --help
    python -m tools.train_codec --help

Run from the root of the repository, with the package installed for editing (`pip install -e .`), so that
`--install` writes to it. The package holds the weights that come of this and never imports it.
"""
