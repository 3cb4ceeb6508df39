"""Synthetic anomalies made from good images."""

from __future__ import annotations

from typing import Any

import torch

DRAWN: Any = {"dtype": torch.float32, "device": "cpu"}
"""What random numbers are drawn as, whatever torch's defaults are: a seed stands for the same ones."""
