"""The options of all workflows and of the command line: types, defaults, help texts, examples."""

from mendiff.workflows.options.base import SHARED as SHARED
from mendiff.workflows.options.base import Options as Options
from mendiff.workflows.options.comparing import BenchmarkOptions, CheckOptions, DemoOptions
from mendiff.workflows.options.fitting import (
    CalibrateOptions,
    ConvertOptions,
    DistillOptions,
    FitCodecOptions,
    FitFeaturesOptions,
    FitOptions,
    PlanOptions,
    TuneOptions,
)
from mendiff.workflows.options.inspecting import (
    EvaluateOptions,
    ExplainOptions,
    ExportOptions,
    InfoOptions,
    MonitorOptions,
    PredictOptions,
    ReportOptions,
)

COMMANDS = (
    DemoOptions,
    CheckOptions,
    FitOptions,
    FitCodecOptions,
    FitFeaturesOptions,
    PredictOptions,
    ExplainOptions,
    EvaluateOptions,
    CalibrateOptions,
    MonitorOptions,
    ReportOptions,
    TuneOptions,
    DistillOptions,
    BenchmarkOptions,
    ConvertOptions,
    ExportOptions,
    PlanOptions,
    InfoOptions,
)
