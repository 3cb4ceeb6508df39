"""Synthetic anomalies made from good images."""

from __future__ import annotations

from typing import Any

import torch

DRAWN: Any = {"dtype": torch.float32, "device": "cpu"}
"""Dtype and device of random numbers, so that a seed gives the same numbers with any torch defaults."""
