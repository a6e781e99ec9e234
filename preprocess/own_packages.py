"""Refuse a file of the user's that hides one of our packages. Run by its path, since `import` may find that one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def require_own(importer: str, *packages: str) -> None:
    """Check that Python finds our packages of these names.

    A file or folder beside the user's script may bear the name of one of them, and Python finds it first.

    Raises:
        ImportError: it finds another; one sentence names both files.
    """
    for name in packages:
        found = find_spec(name)
        place = None if found is None else (found.origin or next(iter(found.submodule_search_locations or ()), None))
        ours = Path(__file__).resolve().parent.parent / name / "__init__.py"
        if place is not None and Path(place).resolve() != ours:
            raise ImportError(
                f"{importer} needs its own package {name} ({ours}), but Python finds {place} first: rename that, or "
                "run python -P"
            )
