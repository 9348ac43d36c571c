"""The processor from messages to model inputs: every kind of source, layout of the prompt, batches, trainer inputs."""

import base64
import functools
import http.server
import io
import threading
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import small_config
from PIL import Image
from transformers import AutoProcessor, ProcessorMixin, pipeline

from modeling_pvc import PVCImageProcessor, PVCProcessor, PVCVideoProcessor, preset_processor
from modeling_pvc.tools.presets import byte_tokenizer


def user(*blocks):
    return [{"role": "user", "content": list(blocks)}]


def text(value="Why?"):
    return {"type": "text", "text": value}


def encode(processor, messages, **kwargs):
    kwargs = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True, **kwargs}
    return processor.apply_chat_template(messages, **kwargs)


def test_layout_of_the_prompt(processor, picture, clip):
    image, video = {"type": "image", "path": str(picture)}, {"type": "video", "path": str(clip), "num_frames": 2}
    inputs = encode(processor, user(image, video, text()))
    assert inputs["pixel_values"].shape == (7, 3, 56, 56)  # 3 x 2 tiles and the thumbnail
    assert inputs["pixel_values_videos"].shape == (2, 3, 56, 56)
    assert inputs["video_grid_thw"][:, 0].tolist() == [2]
    image_span = "<img>" + "<IMG_CONTEXT>" * (7 * 4) + "</img>"
    frame_span = "<img><VIDEO_CONTEXT></img>"
    assert processor.decode(inputs["input_ids"][0]) == (
        f"<|im_start|>user\n{image_span}\nFrame1: {frame_span}\nFrame2: {frame_span}\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


UNREAD = {
    "tools": {"tools": [{"type": "function", "function": {"name": "look"}}]},
    "documents": {"documents": [{"title": "a", "text": "b"}]},
    "tool_calls": {},
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_the_template_does_not_read_is_refused(processor, name):
    called = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "look"}}]}
    messages = [*user(text()), *([called] if name == "tool_calls" else [])]
    for given in (messages, [user(text()), messages]):
        with pytest.raises(ValueError, match=f"does not read `{name}`"):
            encode(processor, given, padding=True, **UNREAD[name])
    reading = processor.chat_template + f"{{# {name} #}}"
    assert encode(processor, messages, chat_template=reading, **UNREAD[name])
    templates = {"default": processor.chat_template, "reading": reading}
    with mock.patch.object(processor, "chat_template", templates):
        assert encode(processor, messages, chat_template="reading", **UNREAD[name])
        with pytest.raises(ValueError, match=f"does not read `{name}`"):
            encode(processor, messages, **UNREAD[name])
    assert encode(processor, user(text()), tools=[], documents=None)


def picture_sources(path):
    data = path.read_bytes()
    pixels = np.asarray(Image.open(path))
    return {
        "str": str(path),
        "Path": path,
        "file URL": path.as_uri(),
        "data URL": "data:image/png;base64," + base64.b64encode(data).decode(),
        "bytes": data,
        "bytes dict": {"bytes": data, "path": None},
        "path dict": {"bytes": None, "path": str(path)},
        "PIL": Image.open(path),
        "array HWC": pixels,
        "array CHW": pixels.transpose(2, 0, 1),
        "float array": pixels.astype(np.float32) / 255,
        "tensor CHW": torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
    }


KINDS = ["str", "Path", "file URL", "data URL", "bytes", "bytes dict", "path dict", "PIL"]
ARRAY_KINDS = ["array HWC", "array CHW", "float array", "tensor CHW"]


@pytest.mark.parametrize("kind", KINDS + ARRAY_KINDS)
def test_sources_of_an_image(processor, picture, kind):
    expected = encode(processor, user({"type": "image", "image": str(picture)}, text()))
    actual = encode(processor, user({"type": "image", "image": picture_sources(picture)[kind]}, text()))
    assert torch.equal(actual["pixel_values"], expected["pixel_values"])
    assert torch.equal(actual["input_ids"], expected["input_ids"])


def test_openais_blocks(processor, picture, clip):
    ours = [{"type": "video", "video": str(clip), "num_frames": 2}, {"type": "image", "image": str(picture)}, text()]
    theirs = [
        {"type": "video_url", "video_url": {"url": str(clip)}, "num_frames": 2},
        {"type": "image_url", "image_url": {"url": str(picture)}},
        text(),
    ]
    expected, actual = (encode(processor, user(*blocks)) for blocks in (ours, theirs))
    for key in ("input_ids", "pixel_values", "pixel_values_videos"):
        assert torch.equal(actual[key], expected[key])


def test_options_of_openais_pictures_are_not_dropped(processor, picture):
    block = {"type": "image_url", "image_url": {"url": str(picture)}}
    ours = {"type": "image", "image": str(picture), "max_image_tiles": 1}
    expected, actual = (encode(processor, user(b, text())) for b in (ours, {**block, "max_image_tiles": 1}))
    assert torch.equal(actual["pixel_values"], expected["pixel_values"]) and len(actual["pixel_values"]) == 1
    with pytest.raises(ValueError, match=r"Unknown options \['tiles'\]"):
        encode(processor, user({**block, "tiles": 1}, text()))


@pytest.mark.parametrize(
    ("detail", "options"),
    [("low", {"max_image_tiles": 1, "image_steps": 1}), ("high", {}), ("auto", {}), (None, {})],
)
def test_openais_detail(processor, picture, detail, options):
    theirs = {"type": "image_url", "image_url": {"url": str(picture), "detail": detail}}
    ours = {"type": "image", "image": str(picture), **options}
    expected, actual = (encode(processor, user(block, text())) for block in (ours, theirs))
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[key], actual[key]) for key in expected)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_url", "image_url": {"url": "a.png", "detail": "finest"}},
        {"type": "image_url", "image_url": {"url": "a.png", "quality": 3}},
        {"type": "video_url", "video_url": {"url": "a.mp4", "detail": "low"}},
    ],
)
def test_what_openais_blocks_hold_beside_is_not_dropped(processor, block):
    with pytest.raises(ValueError, match=r"detail|Unknown options"):
        encode(processor, user(block, text()))


@pytest.mark.parametrize("kind", ["str", "Path", "file URL", "bytes", "bytes dict"])
def test_sources_of_a_video(processor, clip, kind):
    expected = encode(processor, user({"type": "video", "video": str(clip)}, text()))
    assert expected["video_grid_thw"][:, 0].tolist() == [4]
    sources = {
        "str": str(clip),
        "Path": clip,
        "file URL": clip.as_uri(),
        "bytes": clip.read_bytes(),
        "bytes dict": {"bytes": clip.read_bytes(), "path": "clip.mp4"},
    }
    actual = encode(processor, user({"type": "video", "video": sources[kind]}, text()))
    assert torch.equal(actual["pixel_values_videos"], expected["pixel_values_videos"])


def frame_lists(picture):
    frame = Image.open(picture).convert("RGB").resize((64, 48))
    buffer = io.BytesIO()
    frame.save(buffer, format="PNG")
    array = np.asarray(frame)
    paths = [str(picture.parent / f"frame{i}.png") for i in range(3)]
    for path in paths:
        frame.save(path)
    return {
        "PIL": [frame] * 3,
        "arrays": [array] * 3,
        "paths": paths,
        "byte dicts": [{"bytes": buffer.getvalue(), "path": None}] * 3,
        "array THWC": np.stack([array] * 3),
        "array TCHW": np.stack([array] * 3).transpose(0, 3, 1, 2),
        "tensor TCHW": torch.from_numpy(np.stack([array] * 3).transpose(0, 3, 1, 2).copy()),
    }


@pytest.mark.filterwarnings("ignore:Asked for 4 frames")
@pytest.mark.parametrize("kind", ["PIL", "arrays", "paths", "byte dicts", "array THWC", "array TCHW", "tensor TCHW"])
def test_a_video_of_frames(processor, picture, kind):
    lists = frame_lists(picture)
    expected = encode(processor, user({"type": "video", "video": lists["PIL"]}, text()))
    actual = encode(processor, user({"type": "video", "video": lists[kind]}, text()))
    assert actual["video_grid_thw"][:, 0].tolist() == [3]
    assert torch.equal(actual["pixel_values_videos"], expected["pixel_values_videos"])


def test_media_from_a_server(processor, picture, clip, tmp_path):
    for path in (picture, clip):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        image = {"type": "image", "url": f"{address}/picture.png"}
        video = {"type": "video", "url": f"{address}/clip.mp4"}
        inputs = encode(processor, user(image, video, text()))
        with pytest.raises(ValueError, match=r"Cannot download .*/missing.png"):
            encode(processor, user({"type": "image", "url": f"{address}/missing.png"}, text()))
    finally:
        server.shutdown()
    assert len(inputs["pixel_values"]) == 7 and len(inputs["pixel_values_videos"]) == 4


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_conversations(processor, model, picture, clip, side):
    image, video = {"type": "image", "path": str(picture)}, {"type": "video", "path": str(clip)}
    conversations = [user(text()), user(image, video, text()), user(video, text("a"), video, text("b"), image)]
    kwargs = {"processor_kwargs": {"padding": True, "padding_side": side}}
    batch = encode(processor, conversations, **kwargs)
    assert batch["video_grid_thw"][:, 0].tolist() == [4, 4, 4] and len(batch["pixel_values"]) == 14
    assert (batch["attention_mask"][0, 0] == 0) == (side == "left")
    for row, conversation in enumerate(conversations):
        alone = encode(processor, conversation)["input_ids"][0]
        assert torch.equal(batch["input_ids"][row][batch["attention_mask"][row].bool()], alone)
    with torch.no_grad():
        assert model(**batch).logits.shape[:2] == batch["input_ids"].shape


def test_several_turns_with_the_assistant_mask(processor, picture):
    messages = [
        *user({"type": "image", "path": str(picture)}, text("What?")),
        {"role": "assistant", "content": "A picture."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": [text("Yes.")]},
    ]
    inputs = encode(processor, messages, add_generation_prompt=False, return_assistant_tokens_mask=True)
    trained = inputs["input_ids"][inputs["assistant_masks"].bool()]
    assert processor.decode(trained) == "A picture.<|im_end|>Yes.<|im_end|>"


def test_the_assistant_mask_is_made_of_numbers(processor, picture, monkeypatch):
    """transformers compares the offsets of all tokens with all answers: a hundred times slower on tensors."""
    if not hasattr(ProcessorMixin, name := "_adjust_assistant_masks_indices"):
        pytest.skip("this transformers does it inside apply_chat_template")
    seen = []
    given = mock.Mock(side_effect=lambda out, *_: seen.append(type(out["offset_mapping"])) or out)
    monkeypatch.setattr(ProcessorMixin, name, given)
    messages = [*user({"type": "image", "path": str(picture)}, text()), {"role": "assistant", "content": "No."}]
    encode(processor, messages, add_generation_prompt=False, return_assistant_tokens_mask=True)
    assert seen == [list]


def test_keys_that_data_sets_fill_with_none(processor, picture, clip):
    empty = {"text": None, "image": None, "video": None, "num_frames": None, "fps": None}
    messages = user(
        {**empty, "type": "image", "image": str(picture)},
        {**empty, "type": "video", "video": str(clip)},
        {**empty, **text()},
    )
    assert len(encode(processor, messages)["pixel_values_videos"]) == 4


def test_inputs_of_trainers(processor, picture):
    image = Image.open(picture)
    kwargs = {"padding": True, "return_tensors": "pt"}
    inputs = processor(images=[[image], [], None], text=["<IMG_CONTEXT>a", "b", "c"], **kwargs)
    assert len(inputs["pixel_values"]) == 7
    assert set(processor(images=[[], []], text=["a", "b"], **kwargs)) == {"input_ids", "attention_mask"}
    counts = processor.image_processor(images=[[image], [image]], crop_to_patches=True, return_tensors="pt")
    assert counts["num_patches"].tolist() == [7, 7]
    ragged = processor(images=[image], text=["<IMG_CONTEXT>"])
    assert isinstance(ragged["input_ids"], list) and ragged["pixel_values"].shape == (7, 3, 56, 56)


def test_sampling_options(processor, clip):
    def brightness(**options):
        video = {"type": "video", "path": str(clip), **options}
        frames = encode(processor, user(video, text()))["pixel_values_videos"]
        levels = (frames.mean(dim=(1, 2, 3)) * 0.226 + 0.449) * 255  # ImageNet's mean and deviation, over channels
        return [round((float(level) - 10) / 20) for level in levels]  # frame i has level 20 i + 10

    assert brightness(num_frames=3) == [1, 5, 8]  # int(11 / 3 / 2 + round(11 / 3 * i))
    assert brightness(fps=2) == [1, 4, 7, 9]  # 12 frames at 6 per second: 2 seconds, 4 samples
    assert brightness(start=1.0) == [6, 7, 8, 10]
    assert brightness(start=0.5, end=1.0) == [3, 4, 5, 6]
    with pytest.warns(UserWarning, match="Asked for 40 frames, but there are 12"):
        assert brightness(num_frames=40) == list(range(12))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 3, "fps": 1}, "num_frames=3 and fps=1 exclude each other"),
        ({"start": 5}, r"start=5 to end=None seconds selects no frame: the video lasts 2.00 s"),
    ],
)
def test_sampling_errors(processor, clip, options, message):
    with pytest.raises(ValueError, match=message):
        encode(processor, user({"type": "video", "path": str(clip), **options}, text()))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([{"type": "image"}, {"type": "text", "text": "?"}], "Found 1 <IMG_CONTEXT> tokens in the text but no images"),
        (
            [{"type": "video"}, {"type": "text", "text": "<VIDEO_CONTEXT>"}],
            "Found 1 <VIDEO_CONTEXT> tokens in the text",
        ),
        ([{"type": "audio", "path": "a.wav"}], "PVC reads text, image and video blocks, not 'audio'"),
        ([{"type": "video", "video": []}], "without frames"),
        ([{"type": "video", "video": np.zeros((0, 4, 4, 3), np.uint8)}], "without frames"),
    ],
)
def test_placeholders_and_media_that_do_not_match(processor, blocks, message):
    with pytest.raises(ValueError, match=message):
        encode(processor, user(*blocks))


def test_a_truncated_prompt(processor, picture):
    messages = user({"type": "image", "path": str(picture)}, text())
    with pytest.raises(ValueError, match=r"Mismatch in `image` token count.*truncation"):
        encode(processor, messages, processor_kwargs={"max_length": 20, "truncation": True})


def test_a_call_with_truncation_is_not_saved(processor, picture, tmp_path):
    """A fast tokenizer keeps its last truncation, and a file with it would truncate every later prompt."""
    messages = user({"type": "image", "path": str(picture)}, text())
    encode(processor, messages, processor_kwargs={"max_length": 100, "truncation": True})
    processor.save_pretrained(tmp_path)
    long = encode(AutoProcessor.from_pretrained(tmp_path), user(text("a" * 200)))
    assert long["input_ids"].shape[1] > 200


def test_a_tokenizer_without_the_tokens():
    tokenizer = byte_tokenizer()
    del tokenizer._special_tokens_map["video_token"]
    with pytest.raises(ValueError, match=r"no `video_token`.*extra_special_tokens"):
        PVCProcessor(PVCImageProcessor(), tokenizer, PVCVideoProcessor())


def test_counts_without_pixels(processor, clip):
    sizes = [(80, 120), (56, 56), (500, 20)]
    images = [Image.new("RGB", (width, height)) for height, width in sizes]
    counts = processor._get_num_multimodal_tokens(image_sizes=sizes, video_sizes=[(3, 9, 9), (40, 9, 9)])
    tiles = processor.image_processor(images)["num_patches"]
    assert counts["num_image_patches"] == tiles
    assert counts["num_image_tokens"] == [4 * n for n in tiles]
    assert counts["num_video_tokens"] == [3, 4]


def test_saving_keeps_every_option(processor, tmp_path):
    changed = preset_processor(small_config(vision={"video_repeats": 2}), num_frames=9)
    changed.image_processor.max_image_tiles = 5
    changed.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert (loaded.image_processor.max_image_tiles, loaded.video_processor.num_frames) == (5, 9)
    assert (loaded.video_repeats, loaded.tokens_per_step) == (2, 1)
    assert loaded.chat_template == changed.chat_template
    assert loaded.tokenizer.padding_side == "left"


@pytest.mark.parametrize("kind", ["image", "video"])
def test_pipeline(checkpoint, picture, clip, kind):
    pipe = pipeline("image-text-to-text", model=str(checkpoint))
    block = {"type": kind, "path": str(picture if kind == "image" else clip)}
    result = pipe(text=user(block, text()), max_new_tokens=3, return_full_text=False)
    assert isinstance(result[0]["generated_text"], str)
