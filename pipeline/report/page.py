"""The page: content and figures set into one HTML file that needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.files import write_whole
from pipeline.report import figures
from pipeline.report.content import ReportContent
from pipeline.report.templates import embedded, rendered

TEMPLATE = "report.html.j2"
OPEN_ROWS = 50
"""A longer table of regions comes folded, as does one whose regions a comparison already lists."""


def render_report(content: ReportContent) -> str:
    """The whole page as text. Equal content gives equal text."""
    statistics = content.statistics
    foreground = bool(statistics["foreground_voxels"])
    voxel_um = min(statistics["voxel_size_um"])
    return rendered(
        TEMPLATE,
        content=content,
        statistics=statistics,
        thickness=statistics["thickness_um"],
        foreground=foreground,
        regions=_regions(statistics),
        open_rows=OPEN_ROWS,
        slices_figure=embedded("image/png", figures.slices_png(content.slices, content.histogram, voxel_um))
        if foreground and content.slices
        else None,
        histogram_figure=embedded(
            "image/svg+xml", figures.histogram_svg(content.histogram, statistics["thickness_um"], voxel_um).encode()
        )
        if foreground
        else None,
        comparison_figure=embedded("image/svg+xml", figures.comparison_svg(content.comparison).encode())
        if content.comparison and content.comparison.rows
        else None,
        distinct=len(content.histogram.squared_radius),
    )


def write_report(path: Path, content: ReportContent) -> None:
    """Write the page; the file appears whole or not at all. Raises StorageError when it cannot be written."""
    write_whole(path, render_report(content))


def _regions(statistics: Any) -> list[tuple[str, Any]]:
    """The regions in the order of their numbers, as statistics.json sorts them by text."""
    return sorted(statistics.get("regions", {}).items(), key=lambda item: int(item[0]))
