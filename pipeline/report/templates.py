"""The one place that fills templates: HTML is escaped, an unknown name is an error, pictures lie inside the page."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from pipeline.report import numbers


def rendered(template: str, **values: Any) -> str:
    """A template of this folder, filled. Equal values give equal text."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    """Keeps the templates that it has compiled."""
    environment = Environment(
        loader=FunctionLoader(lambda name: files("pipeline.report").joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": numbers.count,
        "duration": numbers.duration,
        "plus_minus": numbers.plus_minus,
        "signed": numbers.signed,
        "significant": numbers.significant,
        "size": numbers.size,
        "volume": numbers.volume,
    }
    return environment


def embedded(kind: str, data: bytes) -> str:
    """Data of a media type as an address that needs no file."""
    return f"data:{kind};base64,{b64encode(data).decode('ascii')}"
