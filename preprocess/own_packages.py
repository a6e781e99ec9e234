"""Detect a user's file that shadows one of our packages. Loaded by path, since `import` may find the user's file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def require_own(importer: str, *packages: str) -> None:
    """Check that the given package names resolve to our packages.

    A file or folder next to the user's script may have the same name, and Python finds it first.

    Raises:
        ImportError: another package is found; the message names both files.
    """
    for name in packages:
        found = find_spec(name)
        place = None if found is None else (found.origin or next(iter(found.submodule_search_locations or ()), None))
        ours = Path(__file__).resolve().parent.parent / name / "__init__.py"
        if place is not None and Path(place).resolve() != ours:
            raise ImportError(
                f"{importer} needs its own package {name} ({ours}), but Python finds {place} first; rename that file, "
                "or run python -P"
            )
