"""Reports: HTML files that open offline, with figures, tables, timings and provenance."""

from pipeline.report.comparison import render_comparison, write_comparison
from pipeline.report.content import (
    ComparedSlice,
    Comparison,
    ComparisonContent,
    ComparisonRow,
    HistogramPair,
    LabelledSlice,
    Lookalike,
    LookalikesContent,
    ReportContent,
    Slice,
    StructuresContent,
    ThicknessHistogram,
    Timing,
)
from pipeline.report.disagreement import Disagreement, disagreements
from pipeline.report.lookalikes import render_lookalikes, write_lookalikes
from pipeline.report.page import render_report, write_report
from pipeline.report.slices import compared_slices, labelled_slices, largest_projection, orthogonal_slices
from pipeline.report.structures import render_structures, write_structures

__all__ = [
    "ComparedSlice",
    "Comparison",
    "ComparisonContent",
    "ComparisonRow",
    "Disagreement",
    "HistogramPair",
    "LabelledSlice",
    "Lookalike",
    "LookalikesContent",
    "ReportContent",
    "Slice",
    "StructuresContent",
    "ThicknessHistogram",
    "Timing",
    "compared_slices",
    "disagreements",
    "labelled_slices",
    "largest_projection",
    "orthogonal_slices",
    "render_comparison",
    "render_lookalikes",
    "render_report",
    "render_structures",
    "write_comparison",
    "write_lookalikes",
    "write_report",
    "write_structures",
]
