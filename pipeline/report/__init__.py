"""Reports: HTML files that open offline, with figures, tables, timings and provenance."""

from pipeline.report.comparison import render_comparison, write_comparison
from pipeline.report.content import (
    ComparedSlice,
    Comparison,
    ComparisonContent,
    ComparisonRow,
    HistogramPair,
    Lookalike,
    LookalikesContent,
    ReportContent,
    Slice,
    ThicknessHistogram,
    Timing,
)
from pipeline.report.disagreement import Disagreement, disagreements
from pipeline.report.lookalikes import render_lookalikes, write_lookalikes
from pipeline.report.page import render_report, write_report
from pipeline.report.slices import compared_slices, largest_projection, orthogonal_slices

__all__ = [
    "ComparedSlice",
    "Comparison",
    "ComparisonContent",
    "ComparisonRow",
    "Disagreement",
    "HistogramPair",
    "Lookalike",
    "LookalikesContent",
    "ReportContent",
    "Slice",
    "ThicknessHistogram",
    "Timing",
    "compared_slices",
    "disagreements",
    "largest_projection",
    "orthogonal_slices",
    "render_comparison",
    "render_lookalikes",
    "render_report",
    "write_comparison",
    "write_lookalikes",
    "write_report",
]
