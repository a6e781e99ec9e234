"""All source datasets, in the order of the help."""

from __future__ import annotations

from preprocess.converters import (
    ai2d,
    arxivcap,
    arxivqa,
    captions,
    chartqa,
    docvqa,
    dvqa,
    hub_parquet,
    json2jsonl,
    synthdog_en,
    webdataset,
)
from preprocess.converters.core.converter import Converter

CONVERTERS: tuple[Converter, ...] = (
    ai2d.CONVERTER,
    arxivcap.CONVERTER,
    arxivqa.CONVERTER,
    chartqa.CONVERTER,
    docvqa.SP_DOCVQA,
    docvqa.INFOGRAPHICS_DOCVQA,
    dvqa.CONVERTER,
    synthdog_en.CONVERTER,
    captions.CONVERTER,
    hub_parquet.CONVERTER,
    webdataset.CONVERTER,
    json2jsonl.CONVERTER,
)
