"""The report: one HTML file that opens offline, with figures, tables, timings and provenance."""

from pipeline.report.content import Comparison, ComparisonRow, ReportContent, Slice, ThicknessHistogram, Timing
from pipeline.report.page import render_report, write_report
from pipeline.report.slices import largest_projection, orthogonal_slices

__all__ = [
    "Comparison",
    "ComparisonRow",
    "ReportContent",
    "Slice",
    "ThicknessHistogram",
    "Timing",
    "largest_projection",
    "orthogonal_slices",
    "render_report",
    "write_report",
]
