"""SFTTrainer: TRL's own collator on images, ours on videos too; what is trained on and what reaches the encoder."""

import json

import pytest
import torch
from conftest import small_model
from isolated import run_isolated
from PIL import Image
from training import lora, losses, make_trainer, quick_args, say, trained_text

from modeling_pvc import PVCDataCollator, load_media_dataset


trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
pytest.importorskip("peft")

from datasets import Dataset, Features, IterableDataset, Json, List  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402


IMAGE, VIDEO = {"type": "image"}, {"type": "video"}
ASK, ANSWER = say("user", "What?"), say("assistant", "yes")


def dataset(*rows, **features):
    """A data set of rows; messages keep their own keys."""
    known = {"messages": List(Json()), "prompt": List(Json()), "completion": List(Json()), **features}
    columns = {key: [row.get(key) for row in rows] for key in rows[0]}
    parts = [
        Dataset.from_dict({key: values}, features=Features({key: known[key]}) if key in known else None)
        for key, values in columns.items()
    ]
    return datasets.concatenate_datasets(parts, axis=1)


def sft(
    model, rows, processor, data_collator=None, args=None, peft_config=None, resume=None, eval_rows=None, **options
):
    """Trains, and returns the trainer and what the encoder saw."""
    torch.manual_seed(0)
    args = args or quick_args(SFTConfig, per_device_train_batch_size=2, **options)
    trainer, seen = make_trainer(
        SFTTrainer, args, rows, processor, model, data_collator=data_collator, peft_config=peft_config,
        eval_dataset=eval_rows,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer, seen


def image_formats(p):
    """Data sets about the picture `p` (7 tiles), and the tiles of one batch of two rows."""
    several = [say("user", IMAGE, "What?", IMAGE), say("assistant", {"type": "text", "text": "yes"})]
    filled = [say("user", {"type": "image", "image": p}, "What?"), ANSWER]
    chat, split = {"messages": [ASK, ANSWER]}, {"prompt": [ASK], "completion": [ANSWER]}
    mixed = [{**chat, "images": [p]}, {**chat, "images": []}]
    return {
        "strings": (Dataset.from_list([{**chat, "images": [p]}] * 2), 14),
        "pictures": (Dataset.from_list([{**chat, "images": [Image.open(p)]}] * 2), 14),
        "one image": (Dataset.from_list([{**chat, "image": p}] * 2), 14),
        "blocks": (Dataset.from_list([{"messages": several, "images": [p, p]}] * 2), 28),
        "media in blocks": (dataset(*[{"messages": filled, "images": []}] * 2), 14),
        "text beside images": (Dataset.from_list(mixed), 7),
        "None beside images": (Dataset.from_list([mixed[0], {**chat, "images": None}]), 7),
        "prompt": (Dataset.from_list([{**split, "images": [p]}] * 2), 14),
        "prompt, one image": (Dataset.from_list([{**split, "image": p}] * 2), 14),
        "stream": (IterableDataset.from_generator(lambda: iter(mixed * 2)), 7),
    }


FORMATS = [
    *("strings", "pictures", "one image", "blocks", "media in blocks", "text beside images", "None beside images"),
    *("prompt", "prompt, one image", "stream"),
]


@pytest.mark.parametrize("name", FORMATS)
def test_both_collators_take_every_format_of_images(processor, picture, name):
    rows, tiles = image_formats(str(picture))[name]
    answers_only = not name.startswith("prompt")  # of a prompt and completion, TRL trains on the completion anyway
    args = quick_args(SFTConfig, per_device_train_batch_size=2, max_steps=1, assistant_only_loss=answers_only)
    stock, seen = sft(None, rows, processor, args=args, peft_config=lora())
    assert seen == [(tiles, 0)]
    ours, seen = sft(None, rows, processor, PVCDataCollator(processor), args=args, peft_config=lora())
    assert seen == [(tiles, 0)]
    expected, batch = next(iter(stock.get_train_dataloader())), next(iter(ours.get_train_dataloader()))
    assert trained_text(batch, processor) == ["yes<|im_end|>"] * 2
    assert trained_text(expected, processor) == [f"yes<|im_end|>{'' if answers_only else chr(10)}"] * 2
    assert all(torch.equal(batch[key], expected[key]) for key in ("input_ids", "attention_mask", "pixel_values"))
    if answers_only:
        assert torch.equal(batch["labels"], expected["labels"]) and losses(stock) == losses(ours)


def answer_tokens(ids, tokenizer):
    """The labels that a conversation should have, found by walking through its turns."""
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    header = [start, *tokenizer("assistant\n")["input_ids"]]
    labels, i = [-100] * len(ids), 0
    while i < len(ids):
        if ids[i : i + len(header)] == header:
            i += len(header)
            length = ids[i:].index(end) + 1
            labels[i : i + length] = ids[i : i + length]
        i += 1
    return labels


def test_the_loss_covers_answers_and_their_end_alone(processor, picture):
    chat = [
        say("system", "Be short."),
        say("user", IMAGE, "Is it?"),
        say("assistant", "a cat"),
        say("user", IMAGE, "?"),
    ]
    rows = dataset(
        {"messages": [*chat, say("assistant", "no", ", two")], "images": [str(picture)] * 2},
        {"messages": [ASK, say("assistant", "x")], "images": []},
    )
    args = quick_args(SFTConfig, per_device_train_batch_size=2, assistant_only_loss=True)
    trainer, _ = make_trainer(SFTTrainer, args, rows, processor)
    for batch in (next(iter(trainer.get_train_dataloader())), PVCDataCollator(processor)(list(rows))):
        assert sorted(trained_text(batch, processor)) == ["a cat<|im_end|>no, two<|im_end|>", "x<|im_end|>"]
        for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist()):
            assert labels == answer_tokens(ids, processor.tokenizer)
            assert processor.image_token_id not in labels


def one_image(picture):
    return Dataset.from_list(
        [{"messages": [say("user", f"{i}?"), ANSWER], "images": [str(picture)] * (i % 2)} for i in range(4)]
    )


@pytest.mark.parametrize("peft", [None, {}, {"use_dora": True}], ids=["full", "lora", "dora"])
def test_gradients_reach_what_is_trained(processor, picture, peft):
    model = small_model()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer, _ = sft(
        model, one_image(picture), processor, peft_config=None if peft is None else lora(**peft), max_steps=3
    )
    parameters = dict(trainer.model.named_parameters())
    if peft is None:
        still = [name for name, parameter in parameters.items() if torch.equal(parameter, before[name])]
        assert still == []
    else:
        trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
        assert {name.split(".")[3] for name in trained} == {"vision_tower", "compressor", "language_model"}
        assert all(parameters[name].abs().sum() > 0 for name in trained)  # lora_B, which starts at 0, too
    first, *_, last = losses(trainer)
    assert last < first


def test_checkpointing_and_autocast(processor, picture):
    """Recomputed activations give the same losses to the last bit; bfloat16 autocast to its precision."""
    for peft in (None, lora()):
        runs = [
            losses(sft(None, one_image(picture), processor, peft_config=peft, **options)[0])
            for options in (
                {"gradient_checkpointing": False},
                {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
                {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
                {"bf16": True},
            )
        ]
        assert runs[1] == runs[2] == runs[0]
        assert runs[3] == pytest.approx(runs[0], rel=2**-7)  # bfloat16 has 8 bits


@pytest.mark.parametrize("peft", [True, False], ids=["lora", "full"])
def test_resumed_training_goes_on_as_if_never_stopped(processor, picture, peft):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "peft_config": lora() if peft else None}
    whole, _ = sft(None, one_image(picture), processor, **options)
    checkpoint = f"{whole.args.output_dir}/checkpoint-2"
    model = small_model()
    resumed, _ = sft(model, one_image(picture), processor, resume=checkpoint, **options)
    assert losses(resumed)[2:] == losses(whole)[2:] and len(losses(whole)) == 4
    for (name, a), (_, b) in zip(whole.model.named_parameters(), resumed.model.named_parameters()):
        assert torch.equal(a, b), name


def test_the_best_model_is_loaded_at_the_end(processor, picture):
    rows = one_image(picture)
    options = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 1, "eval_steps": 1}
    trainer, _ = sft(
        None, rows, processor, eval_rows=rows, peft_config=lora(), max_steps=3, learning_rate=1.0, **options,
        load_best_model_at_end=True, metric_for_best_model="eval_loss",
    )  # fmt: skip
    history = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    best = min(history, key=history.get)
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    assert trainer.evaluate()["eval_loss"] == pytest.approx(history[best], rel=1e-6)


def test_a_model_named_by_its_folder(processor, picture, checkpoint):
    instance, _ = sft(None, one_image(picture), processor, peft_config=lora())
    named, _ = sft(str(checkpoint), one_image(picture), None, peft_config=lora())
    assert losses(named) == losses(instance)


REMOTE = """
import sys
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

folder, picture, out = sys.argv[1:]
ask, answer = {"role": "user", "content": "What?"}, {"role": "assistant", "content": "yes"}
rows = Dataset.from_list([{"messages": [ask, answer], "images": [picture]}] * 2)
args = SFTConfig(
    output_dir=out, max_steps=1, use_cpu=True, bf16=False, report_to="none", trust_remote_code=True,
    assistant_only_loss=True, save_strategy="no",
)
trainer = SFTTrainer(folder, args=args, train_dataset=rows)
assert type(trainer.model).__module__.startswith("transformers_modules.")
seen = []
trainer.model.model.vision_tower.register_forward_pre_hook(
    lambda module, args, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
)
trainer.train()
assert seen == [14], seen
trainer.save_model(out)
"""


def test_remote_code_without_the_package(checkpoint, picture, tmp_path):
    run_isolated(REMOTE, checkpoint, picture, tmp_path / "out", folder=tmp_path)
    saved = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"modeling_pvc.py", "processing_pvc.py", "config.json", "processor_config.json"} <= saved


def test_ten_lines_train_on_videos(processor, picture, clip, tmp_path):
    """The README's recipe on a file of InternVL's format: two videos, a picture and text."""
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "yes"}]
    rows = [
        {"video": str(clip), "conversations": turns},
        {"image": [str(picture)], "conversations": [{"from": "human", "value": "<image>\nWhat?"}, turns[1]]},
        {"conversations": [{"from": "human", "value": "What?"}, turns[1]]},
        {"video": str(clip), "conversations": turns},
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = load_media_dataset(tmp_path / "train.jsonl")
    collator = PVCDataCollator(processor)
    trainer, seen = sft(None, rows, processor, collator, peft_config=lora(), max_steps=2, dataloader_num_workers=1)
    assert [sum(column) for column in zip(*seen)] == [7, 8]
    assert losses(trainer)[1] < losses(trainer)[0]
    # TRL's own collator passes such videos on too, as they lie in the messages
    trainer, seen = sft(None, rows, processor, assistant_only_loss=True)
    assert [sum(column) for column in zip(*seen)] == [7, 8]


def traps(p, v):
    """Data sets that TRL trains on blindly, its error here, and that of our collator under TRL's default arguments."""
    video, image = say("user", {"type": "video", "video": v}, "?"), say("user", {"type": "image", "image": p}, "?")
    strings = List(datasets.Value("string"))
    column = {"messages": [say("user", VIDEO, "?"), ANSWER], "videos": [v], "images": []}
    blind, unknown, tokenized = "but no {} reached the model.*collators", "no videos were passed", "tokenized"
    return {
        "video in a block": (dataset({"messages": [video, ANSWER]}), blind.format("video"), tokenized),
        "image in a block": (dataset({"messages": [image, ANSWER]}), blind.format("image"), tokenized),
        "column": (dataset(column, videos=strings), unknown, "places for 1 videos, but its columns hold 0"),
        "prompt": (dataset({"prompt": [video], "completion": [ANSWER], "images": []}), unknown, None),
        "column, no block": (dataset({"messages": [ASK, ANSWER], "videos": [v]}), None, tokenized),
    }


@pytest.mark.parametrize("name", ["video in a block", "image in a block", "column", "prompt", "column, no block"])
def test_no_training_without_the_media(processor, picture, clip, name, tmp_path):
    rows, stock_error, error = traps(str(picture), str(clip))[name]
    rows = datasets.concatenate_datasets([rows] * 2)
    collator = PVCDataCollator(processor)
    _, seen = sft(None, rows, processor, collator, max_steps=1)
    assert seen == [(14, 0) if name.startswith("image") else (0, 8)]
    defaults = {"max_steps": 1, "report_to": "none", "use_cpu": True, "bf16": False, "per_device_train_batch_size": 2}
    for data_collator, message in ((None, stock_error), (collator, error)):
        if message is not None:
            with pytest.raises(ValueError, match=message):
                sft(None, rows, processor, data_collator, SFTConfig(output_dir=tmp_path, **defaults))


@pytest.mark.parametrize("form", ["messages", "prompt"])
def test_truncated_visual_tokens_raise(processor, picture, form):
    """The model's message is one that TRL knows and turns into advice about `max_length`."""
    rows, _ = image_formats(str(picture))["strings" if form == "messages" else "prompt"]
    with pytest.raises(ValueError, match=r"Mismatch in `image` token count|`max_length` \(20\) is too short"):
        sft(None, rows, processor, max_length=20)


def test_a_frozen_encoder_is_not_recomputed(processor, picture):
    """TRL makes the encoder's embeddings require gradients; with LoRA on the text model alone it still runs once."""
    model = small_model()
    calls = []
    model.model.vision_tower.layers[0].register_forward_pre_hook(lambda module, args: calls.append(0))
    text_only = lora(target_modules=r".*language_model.*\.(q_proj|v_proj)")
    sft(model, one_image(picture).select([1, 3]), processor, peft_config=text_only, max_steps=1)
    assert len(calls) == 1
