"""How a run stands as a page beside the dashboard: the stages by name, with what `voxcaliper status` says of them."""

from __future__ import annotations

import secrets
from html import escape
from pathlib import Path
from typing import Any

from pipeline.plain_text import lines
from workflows.progress import duration
from workflows.run_folder import open_run_folder
from workflows.status import meaning, run_status, what_is_left

SECONDS_BETWEEN_LOOKS = 3

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.4rem; } table { border-collapse: collapse; width: 100%; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; } progress { width: 14rem; height: 1rem; }
tr.at-work { background: #eef4fb; font-weight: 600; } nav a { margin-right: 1rem; }
"""


def new_address() -> str:
    """Where the page of a run shall be, relative to a dashboard that other runs may share; nobody can guess it."""
    return f"run/{secrets.token_urlsafe(16)}"


def status_page(run: Path) -> str:
    """The page, as HTML that looks again by itself."""
    found = run_status(open_run_folder(run))
    rows = "".join(_row(stage, at_work=stage["name"] == found["stage"]) for stage in found["stages"])
    process = found["process"] or {}
    workers = f"{process['workers']} workers, {process['retries']} batches lost with one" if process else ""
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="referrer" content="no-referrer">
<title>{escape(run.name)} – voxcaliper</title>
<meta http-equiv="refresh" content="{SECONDS_BETWEEN_LOOKS}"><style>{STYLE}</style></head><body>
<h1>{escape(run.name)} ({escape(found["workflow"])})</h1>
<p id="state">{escape(meaning(found))}</p>
<p id="left">{escape("" if found["state"] == "complete" else "left: " + what_is_left(found))}</p>
<table><thead><tr><th>stage</th><th></th><th>blocks</th><th>of</th><th>blocks/s</th><th>seconds</th></tr></thead>
<tbody>{rows}</tbody></table>
<p>{escape(workers)}</p>
<nav>Dask: <a href="../status">status</a><a href="../tasks">tasks</a><a href="../workers">workers</a><a
 href="../profile">profile</a></nav>
<p>{escape(str(run))}</p></body></html>"""
    return lines(page)  # names without control characters


def _row(stage: dict[str, Any], *, at_work: bool) -> str:
    rate = stage["blocks_per_second"]
    spent = duration(stage["seconds"]) if stage["finished"] else ""
    return (
        f'<tr class="{"at-work" if at_work else ""}"><td>{escape(stage["name"])}</td>'
        f'<td><progress value="{stage["blocks"]}" max="{stage["of_blocks"]}"></progress></td>'
        f"<td>{stage['blocks']:,}</td><td>{stage['of_blocks']:,}</td>"
        f"<td>{f'{rate:,.3g}' if rate else ''}</td><td>{spent}</td></tr>"
    )
