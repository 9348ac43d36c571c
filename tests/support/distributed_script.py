"""Trains on rows with media of different kinds and writes the losses; `test_distributed` runs it in two processes."""

import json
import sys
from pathlib import Path

from transformers import AutoModelForImageTextToText, AutoProcessor, set_seed
from trl import SFTConfig, SFTTrainer

from modeling_pvc import PVCDataCollator, load_media_dataset, pvc_lora_config, pvc_training_args


BATCH = 2  # rows of a step, one for each of two processes


def train(checkpoint: str, rows: str, folder: Path, peft_config, world_size: int):
    """Losses of a training in which row after row goes to one process after the other."""
    set_seed(0)
    processor = AutoProcessor.from_pretrained(checkpoint)
    args = pvc_training_args(
        SFTConfig,
        output_dir=str(folder),
        per_device_train_batch_size=BATCH // world_size,
        train_sampling_strategy="sequential",
        learning_rate=1e-2,
        num_train_epochs=1,
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = SFTTrainer(
        AutoModelForImageTextToText.from_pretrained(checkpoint),
        args=args,
        train_dataset=load_media_dataset(rows),
        data_collator=PVCDataCollator(processor),
        processing_class=processor,
        peft_config=peft_config,
    )
    trainer.train()
    assert trainer.accelerator.num_processes == world_size
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def train_both(checkpoint: str, rows: str, folder: Path, world_size: int) -> dict[str, list[float]]:
    lora = pvc_lora_config("all", r=4, new_parts=True)
    return {
        name: train(checkpoint, rows, folder / name, config, world_size)
        for name, config in {"LoRA": lora, "full": None}.items()
    }


if __name__ == "__main__":
    checkpoint, rows, folder = sys.argv[1:]
    losses = train_both(checkpoint, rows, Path(folder), world_size=2)
    (Path(folder) / "losses.json").write_text(json.dumps(losses))  # of all ranks the same
