"""Reports: HTML files that open offline, with figures, tables, timings and provenance."""

from pipeline.report.atlas import render_release, write_redirect, write_release
from pipeline.report.atlas_content import (
    THUMBNAIL_PIXELS,
    AtlasContent,
    AtlasEntry,
    Changes,
    EntryChange,
    KeyChange,
    Picture,
    Thumbnail,
    ValueChange,
    binned,
)
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
from pipeline.report.slices import compared_slices, in_frame, labelled_slices, largest_projection, orthogonal_slices
from pipeline.report.structures import render_structures, write_structures

__all__ = [
    "THUMBNAIL_PIXELS",
    "AtlasContent",
    "AtlasEntry",
    "Changes",
    "ComparedSlice",
    "Comparison",
    "ComparisonContent",
    "ComparisonRow",
    "Disagreement",
    "EntryChange",
    "HistogramPair",
    "KeyChange",
    "LabelledSlice",
    "Lookalike",
    "LookalikesContent",
    "Picture",
    "ReportContent",
    "Slice",
    "StructuresContent",
    "ThicknessHistogram",
    "Thumbnail",
    "Timing",
    "ValueChange",
    "binned",
    "compared_slices",
    "disagreements",
    "in_frame",
    "labelled_slices",
    "largest_projection",
    "orthogonal_slices",
    "render_comparison",
    "render_lookalikes",
    "render_release",
    "render_report",
    "render_structures",
    "write_comparison",
    "write_lookalikes",
    "write_redirect",
    "write_release",
    "write_report",
    "write_structures",
]
