"""Rows in, verified HDF5 shards out: planning, writing, resuming, verifying (see docs/architecture.md)."""

from importlib.util import find_spec as _find_spec
from pathlib import Path as _Path

# A file or folder of the user's beside their script may bear the name of one of ours, and Python finds it first.
for _name in ("preprocess",):
    _found = _find_spec(_name)
    _place = None if _found is None else (_found.origin or next(iter(_found.submodule_search_locations or ()), None))
    _ours = _Path(__file__).resolve().parent.parent / _name / "__init__.py"
    if _place is not None and _Path(_place).resolve() != _ours:
        raise ImportError(
            f"{__name__} needs its own package {_name} ({_ours}), but Python finds {_place} first: rename that, or run "
            "python -P"
        )

__version__ = "0.1.0"
