"""Exported models: prediction with NumPy, Pillow and ONNX Runtime or OpenVINO, without torch."""

from mendiff.runtime.exported import Exported as Exported
from mendiff.runtime.exported import Findings as Findings
from mendiff.runtime.exported import load_exported as load_exported
