"""Rows in, verified HDF5 shards out: planning, writing, resuming, verifying (see docs/architecture.md)."""

from pathlib import Path as _Path
from runpy import run_path as _run_path

_checks = _run_path(str(_Path(__file__).resolve().parent.parent / "preprocess" / "own_packages.py"))
_checks["require_own"](__name__, "preprocess")

__version__ = "0.1.0"
