"""The source datasets there are, in the order the help lists them: the names of their modules."""

from __future__ import annotations

from importlib import import_module

from preprocess.converters.dataset import Dataset

MODULES = (
    "ai2d",
    "arxivcap",
    "arxivqa",
    "chartqa",
    "sp_docvqa",
    "infographics_docvqa",
    "dvqa",
    "synthdog_en",
    "captions",
    "hub_parquet",
    "webdataset",
    "json2jsonl",
)
DATASETS: tuple[Dataset, ...] = tuple(import_module(f"preprocess.converters.{name}").DATASET for name in MODULES)
