"""LoRA teaches a tiny model what it did not know, from chance to above 90 % on questions that it has not seen.

The base is trained first, as a whole, to name the colour of a square in a picture and to repeat a word, among them all
answers of this task. So it sees and spells, but it knows no sides, no directions and no clips; its gates have not
moved. Then LoRA on every linear layer, with the parts that PVC adds trained whole, learns on which side a square is
(pictures) and which way it moves (clips). A clip and its reverse have the same frames and different answers, so that
without their order no more than half of the directions can be right.

Everything goes the user's way: files, `load_media_dataset`, the collator, TRL's trainer, saving, loading, `generate`.
"""

import random
from collections import defaultdict

import pytest


pytest.importorskip("trl")
pytest.importorskip("datasets")

import torch
from conftest import small_config
from make_training_data import QUESTIONS, draw_clip, draw_picture, make_row, write_jsonl
from score_answers import answers_of, questions
from transformers import AutoModelForImageTextToText, set_seed
from trl import SFTConfig, SFTTrainer

from modeling_pvc import (
    PVCDataCollator,
    PVCForConditionalGeneration,
    load_media_dataset,
    preset_processor,
    pvc_lora_config,
    pvc_training_args,
)


WORDS = [word for _, words in QUESTIONS.values() for word in words]


def draw_rows(rng, folder, kind, count):
    """Rows of one kind. Clips are folders of PNG files here, which are read faster than video files are decoded."""
    for i in range(count):
        media = folder / f"{kind}{i}"
        if kind == "word":
            word = rng.choice(WORDS)
            row = {"messages": [{"role": "user", "content": f"Say {word}."}, {"role": "assistant", "content": word}]}
        elif kind == "direction":
            frames, answers = draw_clip(rng)
            media.mkdir()
            for number, frame in enumerate(frames):
                frame.save(media / f"{number}.png")
            row = make_row(kind, answers[kind], "videos", media.name)
        else:
            picture, answers = draw_picture(rng)
            picture.save(media.with_suffix(".png"))
            row = make_row(kind, answers[kind], "images", media.with_suffix(".png").name)
        yield row


def make_dataset(rng, folder, **counts):
    folder.mkdir()
    rows = [row for kind, count in counts.items() for row in draw_rows(rng, folder, kind, count)]
    write_jsonl(folder / "rows.jsonl", rows)
    return load_media_dataset(folder / "rows.jsonl")


def train(model, processor, dataset, folder, steps, peft_config=None):
    args = pvc_training_args(
        SFTConfig,
        output_dir=str(folder),
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        warmup_steps=15,
        max_steps=steps,
        per_device_train_batch_size=32,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model,
        args=args,
        train_dataset=dataset,
        data_collator=PVCDataCollator(processor),
        processing_class=processor,
        peft_config=peft_config,
    )
    trainer.train()
    trainer.save_model()


@torch.no_grad()
def guesses_of(model, processor, rows):
    """The likeliest first letter among those of the four answers to each row, as indices of the answers."""
    inputs = questions(processor, rows)
    first = processor.tokenizer.convert_tokens_to_ids
    letters = torch.tensor([[first(word[0]) for word in QUESTIONS[row["kind"]][1]] for row in rows])
    return model.eval()(**inputs).logits[:, -1].gather(1, letters).argmax(1).tolist()


def accuracy(rows, answers):
    right = defaultdict(list)
    for row, answer in zip(rows, answers, strict=True):
        right[row["kind"]].append(answer == row["answer"])
    return {kind: sum(results) / len(results) for kind, results in right.items()}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0])
def test_lora_learns_sides_and_directions(seed, tmp_path):
    set_seed(seed)
    rng = random.Random(seed)
    config = small_config()
    processor = preset_processor(config, num_frames=4)
    known = make_dataset(rng, tmp_path / "known", colour=200, word=200)
    train(PVCForConditionalGeneration(config), processor, known, tmp_path / "base", steps=120)
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    test = list(make_dataset(rng, tmp_path / "test", side=100, direction=100))
    guesses = [QUESTIONS[row["kind"]][1][i] for row, i in zip(test, guesses_of(base, processor, test))]
    before = accuracy(test, guesses)

    new = make_dataset(rng, tmp_path / "new", side=400, direction=400)
    lora = pvc_lora_config("all", r=16, new_parts=True)
    train(base, processor, new, tmp_path / "adapter", steps=120, peft_config=lora)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "adapter").eval()
    after = accuracy(test, answers_of(model, processor, test))
    print(f"seed {seed}: before {before}, after {after}")
    assert all(share < 0.5 for share in before.values()), before  # chance is 1/4
    assert all(share > 0.9 for share in after.values()), after
