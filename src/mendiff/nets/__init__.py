"""Networks: the only room that knows diffusers and timm."""

AUTO = "auto"
"""Name of features or kind of codec that stands for the network that comes with the package."""
