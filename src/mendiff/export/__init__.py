"""Export of models to graphs that run without torch; mendiff.runtime is their other side."""

from mendiff.export.folder import Difference as Difference
from mendiff.export.folder import export_model as export_model
