"""Networks: the only room that knows diffusers and timm."""

from typing import Final

AUTO: Final = "auto"
"""Name of features or kind of codec that stands for the network that comes with the package."""
LEAST_SIDE = 256
"""Of images that a backbone describes well: they were trained on some 224 pixels, and of smaller images even
their finest maps are coarse (benchmarks/readout_choice.py compares)."""
