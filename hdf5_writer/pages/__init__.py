"""The HTML pages: templates, one style sheet and one script, put together into single files that fetch nothing."""

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
    """A page as it is written to disk, with its checksum at the end.

    Args:
        template: name of a template of this folder. Every value is escaped unless it is `Markup`.
        script: name of the only script that the page's content security policy lets run.
        values: what the template shows.
    """
    code = _read(script) if script else ""
    # `default-src 'none'` makes the browser itself refuse to fetch anything, whatever a record may hold.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    if script:
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    page = _environment().get_template(template)
    style = Markup(_read("style.css"))
    return seal_page(page.render(policy=policy, style=style, script=Markup(code), **values).encode())


def json_for_script(document: Any) -> Markup:
    """JSON that may stand inside a `<script type="application/json">`, whatever texts it holds."""
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
