"""List the records that were rejected, with file, line and reason.

    python docs/examples/find_rejects.py [FOLDER]

FOLDER (default: example_output) is deleted first; valid and invalid records and their dataset are written to it.
"""

import json
import shutil
import sys
from pathlib import Path

import hdf5_writer
from preprocess.settings import SHIPPED_DIRS

EXAMPLE = next(folder for folder in SHIPPED_DIRS if folder.is_dir()) / "quickstart"


def turns(question: str, answer: str) -> list[dict[str, str]]:
    """Return one round of a conversation."""
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


RECORDS = [
    {"id": "good", "image": "shapes/0001.png", "conversations": turns("<image>\nWhat is shown?", "Three shapes.")},
    {"id": "text-only", "conversations": turns("How are you?", "Fine.")},
    {"id": "gone", "image": "shapes/none.png", "conversations": turns("<image>\nWhat is shown?", "Nothing.")},
    {"id": "no-token", "image": "shapes/0001.png", "conversations": turns("What is shown?", "Three shapes.")},
    {"id": "two-answers", "conversations": [*turns("Well?", "Yes."), {"from": "gpt", "value": "No."}]},
    {"id": "silent", "conversations": []},
]


def main(folder: Path) -> dict[str, str]:
    """Write the dataset; return the reason of every reject by the id of its record."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "records").mkdir(parents=True)
    lines = [json.dumps(record) + "\n" for record in RECORDS] + ["{this is not JSON\n"]
    (folder / "records" / "mixed.jsonl").write_text("".join(lines), encoding="utf-8")
    config = hdf5_writer.load_config(
        "quickstart.yaml",
        setup__input_dir=folder / "records",
        setup__output_dir=folder / "dataset",
        setup__max_reject_fraction=1.0,
        dataset__image_dir=EXAMPLE / "images",
    )
    result = hdf5_writer.create_dataset(config)
    print(result)
    for reject in result.rejects:
        print(f"{reject['file']}, line {reject['line']}: {reject['reason']}: {reject['detail']}")
    return {str(reject["id"]): reject["reason"] for reject in result.rejects}


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example_output"))
