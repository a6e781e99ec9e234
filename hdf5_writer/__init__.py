"""Write samples as verified HDF5 shards: planning, writing, resuming, verifying (see docs/architecture.md)."""

from pathlib import Path as _Path
from runpy import run_path as _run_path
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

_checks = _run_path(str(_Path(__file__).resolve().parent.parent / "preprocess" / "own_packages.py"))
_checks["require_own"](__name__, "preprocess")

__version__ = "0.2.0"

if _TYPE_CHECKING:
    from hdf5_writer.api import DatasetResult, InspectedRows, create_dataset, inspect_rows, load_config, verify_dataset

__all__ = ["DatasetResult", "InspectedRows", "create_dataset", "inspect_rows", "load_config", "verify_dataset"]


def __getattr__(name: str) -> _Any:
    """Import the Python API on first use, so that the commands start without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hdf5_writer import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
