"""Networks of our own making that come with the package, and the workshop that made them.

    python -m mendiff.bundled.train_features --help
    python -m mendiff.bundled.train_codec --help

`checkpoints/bundled.py` opens the weights; nothing but these two commands imports this room.
"""
