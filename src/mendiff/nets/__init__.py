"""Networks: the only package that imports diffusers and timm."""

from typing import Final

AUTO: Final = "auto"
"""Features name or codec kind that stands for the bundled network."""
LEAST_SIDE = 256
"""Smallest image side in pixels for backbones. They were trained on about 224 pixels; feature maps of smaller
images are too coarse (compared in benchmarks/readout_choice.py)."""
