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
from preprocess.converters.core.converter import Converter

CONVERTERS: tuple[Converter, ...] = (
    ai2d.CONVERTER,
    arxivcap.CONVERTER,
    arxivqa.CONVERTER,
    chartqa.CONVERTER,
    sp_docvqa.CONVERTER,
    infographics_docvqa.CONVERTER,
    dvqa.CONVERTER,
    synthdog_en.CONVERTER,
    captions.CONVERTER,
    hub_parquet.CONVERTER,
    webdataset.CONVERTER,
    json2jsonl.CONVERTER,
)
