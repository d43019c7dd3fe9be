"""The command that lists an atlas, and can begin the manifest of a release with what it lists."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.errors import InputError
from pipeline.files import write_whole
from pipeline.plain_text import one_line, safe_cell, unwrapped
from workflows.atlas.costs import MARGIN
from workflows.atlas.inventory import BLOCK_SHAPE, Listed, at_level, read_inventory, selected
from workflows.options import LevelOption, ThresholdOption, numbers, say, threshold_of
from workflows.plan_thickness import times

N5_LEVELS = 5
"""Levels of the atlas's N5 stores, as far as they have been looked at."""


def inventory(
    metadata: Annotated[
        Path | None, typer.Option(help="Folder or zip with a JSON file a data set; default: those of hoa-tools.")
    ] = None,
    organ: Annotated[str | None, typer.Option(help="Only this organ.")] = None,
    donor: Annotated[str | None, typer.Option(help="Only this donor.")] = None,
    voxel_size_um: Annotated[
        str | None, typer.Option("--voxel-size-um", metavar="LOW,HIGH", help="Only voxels from LOW to HIGH µm.")
    ] = None,
    kind: Annotated[str | None, typer.Option("--type", help="overview (whole organs) or zoom.")] = None,
    level: LevelOption = 0,
    finest_um: Annotated[
        float | None, typer.Option(help="Instead of a level: each at its finest one without smaller voxels.", min=1e-3)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV.")] = False,
    manifest: Annotated[
        Path | None, typer.Option(metavar="RELEASE.toml", help="Write a manifest of these data sets to begin with.")
    ] = None,
    threshold: ThresholdOption = None,
) -> None:
    """List what an atlas publishes: sizes, blocks and the estimated cost of a thickness run at a level.

    Nothing of the atlas is read but its metadata.
    """
    if level and finest_um is not None:
        raise InputError("--level and --finest-um exclude each other; give one of them.")
    if as_json and as_csv:
        raise InputError("--json and --csv exclude each other; give one of them.")
    if threshold is not None and manifest is None:
        raise InputError("--threshold belongs to the manifest; give --manifest RELEASE.toml with it.")
    found = selected(
        read_inventory(metadata), organ=organ, donor=donor, voxel_size_um=_range_of(voxel_size_um), kind=kind
    )
    if not found:
        raise InputError("No data set is like that; give fewer of --organ, --donor, --voxel-size-um and --type.")
    listed = at_level(found, level=level, finest_um=finest_um)
    if manifest is not None:
        from workflows.atlas.first_manifest import first_manifest

        if manifest.exists():
            raise InputError(f"{manifest} exists already; remove it or choose another name.")
        write_whole(manifest.absolute(), first_manifest(listed, threshold_of(threshold)))
    if as_json:
        print(json.dumps({"datasets": [row_of(one) for one in listed], "total": totals(listed)}, indent=2))
    elif as_csv:
        print(_csv([row_of(one) for one in listed]), end="")
    else:
        _show(listed)
    deep = sum(one.level >= N5_LEVELS and one.dataset.data.gcs_url.startswith("n5:") for one in listed)
    if deep:
        say(f"{deep} of these are N5 stores at a level above {N5_LEVELS - 1}, which those of the atlas mostly lack.")
    if manifest is not None:
        say(f"manifest  {manifest}")


def _range_of(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    low, high = numbers(text, name="--voxel-size-um", counts=(2,))
    if low > high:
        raise InputError(f"--voxel-size-um takes LOW,HIGH, but {low:g} is above {high:g}.")
    return low, high


def row_of(one: Listed) -> dict[str, Any]:
    """A data set as a program reads it: sizes in voxels, bytes and µm, shapes (z, y, x)."""
    dataset = one.dataset
    return {
        "name": dataset.name,
        "organ": dataset.sample.organ,
        "organ_context": dataset.sample.organ_context,
        "donor": dataset.donor.id,
        "type": dataset.dataset_type,
        "voxel_size_um": dataset.data.voxel_size_um,
        "level": one.level,
        "voxel_size_at_level_um": one.voxel_um,
        "shape": list(one.shape),
        **_sums(one),
        "url": dataset.data.gcs_url,
    }


def _sums(one: Listed) -> dict[str, Any]:
    return {
        "voxels": one.voxels,
        "bytes": one.bytes,
        "blocks": one.blocks,
        "cpu_hours": one.cpu_hours,
        "written_bytes": one.written_bytes,
    }


def totals(listed: Sequence[Listed]) -> dict[str, Any]:
    """The sums of all, with the shape of the blocks that are counted."""
    rows = [_sums(one) for one in listed]
    return {
        "datasets": len(rows),
        "donors": len({one.dataset.donor.id for one in listed}),
        "organs": len({one.dataset.sample.organ for one in listed}),
        **{name: sum(row[name] for row in rows) for name in rows[0]},
        "block_shape": list(BLOCK_SHAPE),
    }


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows(
        [safe_cell(" ".join(map(str, v)) if isinstance(v, list) else v) for v in row.values()] for row in rows
    )
    return text.getvalue()


COLUMNS: dict[str, Literal["left", "right"]] = {
    "name": "left", "organ": "left", "donor": "left", "µm": "right", "level": "right", "shape (z, y, x)": "right",
    "Gvoxel": "right", "size": "right", "blocks": "right", "CPU-hours": "right", "written": "right",
}  # fmt: skip
"""Column -> where its text stands."""
LEAST_NAME = 24
"""Characters of a name in a line of the table."""


def _cells(one: Listed) -> tuple[str, ...]:
    context = one.dataset.sample.organ_context
    return (
        one.dataset.name, one.dataset.sample.organ + (f" ({context})" if context else ""), one.dataset.donor.id,
        f"{one.voxel_um:g}", str(one.level), times(one.shape), *_cells_of(_sums(one)),
    )  # fmt: skip


def _cells_of(sums: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{sums['voxels'] / 1e9:,.2f}", amount(sums["bytes"]), f"{sums['blocks']:,}", f"{sums['cpu_hours']:,.2f}",
        amount(sums["written_bytes"]),
    )  # fmt: skip


def _total_cells(listed: Sequence[Listed]) -> tuple[str, ...]:
    total = totals(listed)
    name = f"{total['datasets']:,} data sets"
    return (name, f"{total['organs']} organs", f"{total['donors']} donors", "", "", "", *_cells_of(total))


def _note() -> str:
    return (
        f"size: grey values of 16 bits, before compression. blocks: of {times(BLOCK_SHAPE)} voxels, the largest that a"
        " plan takes.\nCPU-hours: a thickness run as measured on masks of half foreground; written: its map and"
        f" scratch, {MARGIN} times what they took there."
    )


def _show(listed: Sequence[Listed]) -> None:
    """A table on a terminal that is wide enough, plain columns elsewhere."""
    rows = [tuple(COLUMNS), *map(_cells, listed), _total_cells(listed)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    console = Console(file=unwrapped(sys.stdout))
    if console.is_terminal and LEAST_NAME + sum(widths[1:]) + 3 * len(widths) <= console.width:
        console.print(_table(rows))
        return
    for row in rows:
        cells = (
            cell.ljust(width) if side == "left" else cell.rjust(width)
            for cell, width, side in zip(row, widths, COLUMNS.values(), strict=True)
        )
        print("  ".join(cells).rstrip())
    print(_note())


def _table(rows: Sequence[tuple[str, ...]]) -> Table:
    """The same as a terminal draws it, with the totals below; names fold where they must."""
    table = Table(show_footer=True, caption=_note(), caption_justify="left", pad_edge=False)
    for (name, side), total in zip(COLUMNS.items(), rows[-1], strict=True):
        table.add_column(name, total, justify=side, no_wrap=name != "name", overflow="fold")
    for row in rows[1:-1]:
        table.add_row(*(escape(one_line(cell)) for cell in row))
    return table


def amount(size: float) -> str:
    """Bytes in decimal units, as stores and budgets are counted."""
    for unit, step in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= step:
            return f"{size / step:,.1f} {unit}"
    return f"{size / 1e3:,.1f} kB"
