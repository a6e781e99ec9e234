"""The source datasets there are, in the order the help lists them."""

from __future__ import annotations

from preprocess.converters import (
    ai2d,
    arxivcap,
    arxivqa,
    captions,
    chartqa,
    dvqa,
    hub_parquet,
    infographics_docvqa,
    json2jsonl,
    sp_docvqa,
    synthdog_en,
    webdataset,
)
from preprocess.converters.core.converter import Dataset

DATASETS: tuple[Dataset, ...] = (
    ai2d.DATASET,
    arxivcap.DATASET,
    arxivqa.DATASET,
    chartqa.DATASET,
    sp_docvqa.DATASET,
    infographics_docvqa.DATASET,
    dvqa.DATASET,
    synthdog_en.DATASET,
    captions.DATASET,
    hub_parquet.DATASET,
    webdataset.DATASET,
    json2jsonl.DATASET,
)
