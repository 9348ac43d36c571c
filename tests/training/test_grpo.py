"""GRPO and RLOO: images train, videos raise before they are lost."""

import pytest
import torch
from conftest import small_model
from training import lora, losses, make_trainer, quick_args, say

from modeling_pvc import load_media_dataset


trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
pytest.importorskip("peft")

from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer  # noqa: E402


ASK = say("user", "What?")
TRAINERS = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}


def length_reward(completions, **kwargs):
    return [float(len(completion[0]["content"])) for completion in completions]


def train(kind, rows, processor, checkpoint, peft=True, **options):
    trainer_class, config = TRAINERS[kind]
    model = small_model()
    model.config._name_or_path = str(checkpoint)  # full fine-tuning with beta > 0 loads the reference model from there
    placeholders = [processor.image_token_id, processor.video_token_id]  # one of them is a whole step of this model
    options = {"max_steps": 1, "generation_kwargs": {"suppress_tokens": placeholders}, **options}
    options = {"num_generations": 2, "max_completion_length": 4, **options}
    torch.manual_seed(0)
    trainer, seen = make_trainer(
        trainer_class,
        quick_args(config, per_device_train_batch_size=4, **options),
        rows,
        processor,
        model,
        reward_funcs=length_reward,
        peft_config=lora() if peft else None,
    )
    trainer.train()
    return trainer, seen


@pytest.mark.parametrize(
    ("kind", "peft", "options"),
    [
        ("grpo", True, {"beta": 0.0}),
        ("grpo", True, {"beta": 0.1, "num_iterations": 2, "max_steps": 2}),
        ("grpo", False, {"beta": 0.1}),
        ("grpo", False, {"beta": 0.0, "gradient_accumulation_steps": 2}),
        ("rloo", True, {"beta": 0.1}),
        ("rloo", False, {"beta": 0.0}),
    ],
)
def test_images(processor, picture, checkpoint, kind, peft, options):
    """Prompts with seven tiles, fourteen and none; those of a prompt are seen once for each of its two answers."""
    p = str(picture)
    rows = datasets.Dataset.from_list([{"prompt": [ASK], "images": images} for images in ([p], [p, p], [], [p])] * 2)
    trainer, seen = train(kind, rows, processor, checkpoint, peft, **options)
    assert all(tiles % 14 == 0 and frames == 0 for tiles, frames in seen) and max(seen)[0] > 0
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
    assert len(losses(trainer)) == options.get("max_steps", 1)


def test_images_from_a_file(processor, picture, checkpoint, tmp_path):
    (tmp_path / "train.jsonl").write_text(
        f'{{"prompt": [{{"role": "user", "content": "<image>?"}}], "image": "{picture}"}}\n' * 4
    )
    for kind in TRAINERS:
        _, seen = train(kind, load_media_dataset(tmp_path / "train.jsonl"), processor, checkpoint, beta=0.0)
        assert set(seen) == {(28, 0)}


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_videos_raise(processor, picture, clip, checkpoint, tmp_path, kind, beta):
    """TRL generates with the video and would compute the loss without it."""
    (tmp_path / "train.jsonl").write_text(
        f'{{"prompt": [{{"role": "user", "content": "<video>?"}}], "video": "{clip}"}}\n' * 4
    )
    rows = load_media_dataset(tmp_path / "train.jsonl")
    with pytest.raises(ValueError, match=r"no video reached the model.*GRPO and RLOO trainers pass on the images"):
        train(kind, rows, processor, checkpoint, beta=beta)


def test_frames_as_images(processor, picture, checkpoint):
    """What to do instead: the frames of a video are images, of one tile each where the processor says so."""
    rows = datasets.Dataset.from_list([{"prompt": [ASK], "images": [str(picture)] * 3}] * 4)
    tiles, processor.image_processor.max_image_tiles = processor.image_processor.max_image_tiles, 1
    try:
        _, seen = train("grpo", rows, processor, checkpoint, beta=0.0)
    finally:
        processor.image_processor.max_image_tiles = tiles
    assert set(seen) == {(12, 0)}
