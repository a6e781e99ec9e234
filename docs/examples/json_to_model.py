"""Train a tiny model, starting from a JSON array of LLaVA records.

    python docs/examples/json_to_model.py [FOLDER]

FOLDER (default: example_output) is deleted first; records, dataset and weights are written to it. The records are those
of the embedded example; replace them with your own JSON file and image folder. Needs torch and transformers.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import hdf5_writer
from loaders import create_dataloader
from preprocess.preprocess_dataset import convert_json2jsonl_main
from preprocess.settings import SHIPPED_DIRS

EXAMPLE = next(folder for folder in SHIPPED_DIRS if folder.is_dir()) / "quickstart"


class TinyModel(torch.nn.Module):
    """A Llama with two layers and one linear embedding per image patch of 14 x 14 pixels."""

    def __init__(self, vocab_size: int, image_start_idx: int) -> None:
        super().__init__()
        self.start = image_start_idx
        self.text = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
            )
        )
        self.patches = torch.nn.Conv2d(3, 64, kernel_size=14, stride=14)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        words = self.text.get_input_embeddings()(batch["text_input_ids"].long())
        image = self.patches(batch["image_data"].float()).flatten(2).transpose(1, 2)
        end = self.start + image.shape[1]
        attended = 1 - batch["key_padding_mask"]  # 0 also at the dummy slots of a text-only row
        return self.text(
            inputs_embeds=torch.cat([words[:, : self.start], image, words[:, end:]], dim=1),
            attention_mask=attended,
            position_ids=(attended.cumsum(1) - 1).clamp(min=0),
        ).logits


def main(folder: Path) -> list[float]:
    """Run all steps; return the mean loss of each epoch."""
    # 1. Write a JSON array, the format in which LLaVA publishes its data.
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "json").mkdir(parents=True)
    lines = (EXAMPLE / "phase_2" / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "json" / "records.json").write_text(json.dumps([json.loads(line) for line in lines]), encoding="utf-8")

    # 2. Convert it to JSONL, one record per line.
    code = convert_json2jsonl_main(["--input_dir", str(folder / "json"), "--output_dir", str(folder / "jsonl")])
    if code:
        raise SystemExit(code)

    # 3. Write HDF5 shards of fixed-length rows.
    config = hdf5_writer.load_config(
        "quickstart.yaml",
        setup__input_dir=folder / "jsonl",
        setup__output_dir=folder / "dataset",
        dataset__image_dir=EXAMPLE / "images",
        dataset__image_size=56,
        processor__max_sequence_length=192,
    )
    result = hdf5_writer.create_dataset(config)
    print(result)

    # 4. Train.
    torch.manual_seed(0)
    loader = create_dataloader(
        result.output_dir, EXAMPLE / "images", batch_size=11, image_aspect_ratio="pad", ignore_index=-100
    )
    model = TinyModel(result.params["vocab_size"], result.params["image_start_idx"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for epoch in range(4):
        total = 0.0
        for batch in loader:
            logits = model(batch)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten().long())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item()
        losses.append(total / len(loader))
        print(f"epoch {epoch}: loss {losses[-1]:.3f}")
    torch.save(model.state_dict(), folder / "model.pt")
    return losses


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example_output"))
