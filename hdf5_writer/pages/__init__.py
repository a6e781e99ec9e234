"""Render HTML pages from templates, one style sheet and one script, as single files that load nothing else."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hdf5_writer.publish import seal_page

_FOLDER = Path(__file__).parent


def render_page(template: str, script: str | None = None, **values: Any) -> bytes:
    """Render a page and append its checksum.

    Args:
        template: name of a template in this folder. Every value is escaped unless it is `Markup`.
        script: name of the only script that the page's content security policy allows.
        values: the variables of the template.
    """
    code = _read(script) if script else ""
    # `default-src 'none'` makes the browser refuse to load anything, whatever a record contains.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    if script:
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    page = _environment().get_template(template)
    style = Markup(_read("style.css"))
    return seal_page(page.render(policy=policy, style=style, script=Markup(code), **values).encode())


def json_for_script(document: Any) -> Markup:
    """Serialise JSON for a `<script type="application/json">` element, escaped so that no text can close it."""
    return Markup(orjson.dumps(document).decode().replace("<", "\\u003c"))


@functools.lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["seconds"] = lambda value: f"{value:,.1f} s" if value >= 1 else f"{value * 1000:,.0f} ms"
    environment.filters["percent"] = lambda value: f"{value:.1%}"
    return environment


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
