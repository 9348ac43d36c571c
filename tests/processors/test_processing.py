"""The processor: what collators hand over, budgets, and token counts that always fit the model's features."""

import dataclasses
import inspect
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from media import barcode, encoded, picture, write_clip
from PIL import Image
from transformers.audio_utils import AudioInput
from transformers.image_utils import ImageInput
from transformers.video_utils import VideoInput

from modeling_pvc import PVCForConditionalGeneration, PVCProcessor, preset_config, preset_processor
from modeling_pvc.media_pvc import normalize_messages


SMALL = {
    "image_size": 56,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_temporal_layers": 1,
}
IMAGE, VIDEO = "<IMG_CONTEXT>", "<VIDEO_CONTEXT>"


@pytest.fixture(scope="module")
def processor() -> PVCProcessor:
    return preset_processor(preset_config("pvc-tiny", vision_config=SMALL))


@pytest.fixture(scope="module")
def model() -> PVCForConditionalGeneration:
    torch.manual_seed(0)
    return PVCForConditionalGeneration(preset_config("pvc-tiny", vision_config=SMALL)).eval()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=50))


def visual_tokens(processor: PVCProcessor, inputs) -> list[int]:
    ids = [torch.as_tensor(row) for row in inputs["input_ids"]]
    return [int(((row == processor.image_token_id) | (row == processor.video_token_id)).sum()) for row in ids]


def user(*blocks) -> list[dict]:
    content = [{"type": "text", "text": block} if isinstance(block, str) else block for block in blocks]
    return [{"role": "user", "content": content}]


def tokens_of(processor: PVCProcessor, messages, **options):
    return processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"padding": True, **options}
    )


sizes = st.tuples(st.integers(1, 400), st.integers(1, 400))


@settings(max_examples=25, deadline=None)
@given(
    samples=st.lists(
        st.lists(st.one_of(sizes, st.integers(1, 5)), max_size=3), min_size=1, max_size=3
    ),  # a pair is an image's size, a number a video's length
    max_tiles=st.integers(1, 4),
    max_frames=st.integers(1, 4),
    steps=st.one_of(st.none(), st.integers(1, 6)),
    budget=st.one_of(st.none(), st.integers(80, 200)),
)
def test_prompts_hold_a_token_for_every_feature(processor, model, samples, max_tiles, max_frames, steps, budget):
    rng = np.random.default_rng(0)
    texts, images, videos = [], [], []
    for sample in samples:
        texts.append("a" + "b".join(IMAGE if isinstance(item, tuple) else VIDEO for item in sample))
        images.append([picture(*item) for item in sample if isinstance(item, tuple)])
        videos.append([rng.integers(0, 256, (n, 9, 7, 3), np.uint8) for n in sample if not isinstance(n, tuple)])
    options = {"max_image_tiles": max_tiles, "image_steps": steps}
    options |= {"max_frames": max_frames, "max_visual_tokens": budget}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = processor(images, texts, videos, padding=True, return_tensors="pt", **options)
    ids = inputs["input_ids"]
    per_step = processor.tokens_per_step
    tiles = len(inputs["pixel_values"]) if "pixel_values" in inputs else 0
    frames = len(inputs["pixel_values_videos"]) if "pixel_values_videos" in inputs else 0
    per_tile = (steps or processor.image_repeats) * per_step
    assert int((ids == processor.image_token_id).sum()) == tiles * per_tile
    assert int((ids == processor.video_token_id).sum()) == frames * per_step
    with torch.no_grad():
        assert model(**inputs).logits.shape[:2] == ids.shape  # which raises where a feature has no token
    if budget is not None:
        assert max(visual_tokens(processor, inputs)) <= budget
    else:
        image_sizes = [image.size[::-1] for sample in images for image in sample]
        video_sizes = [video.shape[:3] for sample in videos for video in sample]
        predicted = processor._get_num_multimodal_tokens(image_sizes, video_sizes, **_without(options))
        assert sum(predicted["num_image_tokens"]) == tiles * per_tile
        assert sum(predicted["num_video_tokens"]) == frames * per_step


def _without(options: dict) -> dict:
    return {key: value for key, value in options.items() if key != "max_visual_tokens"}


def test_nested_empty_and_missing_media(processor):
    image = picture(60, 40)
    for images in ([[image], []], [[image], None], [[image], [None]], [image]):
        inputs = processor(images=images, text=[IMAGE, "x"], padding=True, return_tensors="pt")
        assert len(inputs["pixel_values"]) == 7 and visual_tokens(processor, inputs)[1] == 0
    for images in ([[], []], [None, None], None, []):
        assert "pixel_values" not in processor(images=images, text=["x", "y"], videos=[[], []])
    data = encoded(image)
    for source in ({"bytes": data, "path": None}, {"bytes": data, "path": "gone.png"}, data, np.asarray(image)):
        assert len(processor(images=[[source]], text=IMAGE)["pixel_values"]) == 7
    counts = processor.image_processor(images=[[image], [image]], crop_to_patches=True, return_tensors="pt")
    assert counts["num_patches"].tolist() == [7, 7]


def test_keys_are_the_models_arguments(processor, clip):
    inputs = processor(images=[picture(9, 9)], text=IMAGE + VIDEO, videos=[clip], num_frames=2)
    assert set(inputs) == {
        "input_ids", "attention_mask", "pixel_values", "pixel_values_videos", "video_grid_thw"
    }  # fmt: skip
    assert isinstance(inputs["input_ids"], list)  # return_tensors=None
    mixed = processor(images=[picture(9, 9)], text=IMAGE + VIDEO, videos=[clip], num_frames=2, return_tensors="pt")
    np.testing.assert_array_equal(np.asarray(inputs["pixel_values"]), mixed["pixel_values"].numpy())


def test_both_padding_sides(processor):
    for side in ("left", "right"):
        inputs = processor(
            images=[[picture(9, 9)], []], text=[IMAGE, "x"], padding=True, padding_side=side, return_tensors="pt"
        )
        mask = inputs["attention_mask"][1]
        assert mask.sum() == 1 and mask[-1 if side == "left" else 0] == 1


def test_offsets_of_replaced_text(processor):
    inputs = processor(
        images=[picture(9, 9)],
        text="say " + IMAGE + " now",
        return_offsets_mapping=True,
        return_text_replacement_offsets=True,
    )
    assert len(inputs["offset_mapping"][0]) == len(inputs["input_ids"][0])
    span = inputs["text_replacement_offsets"][0][0]
    assert tuple(span["span"]) == (4, 4 + len(IMAGE))


def test_assistant_mask_covers_the_answer_alone(processor):
    messages = user({"type": "image", "image": picture(60, 40)}, "?")
    messages.append({"role": "assistant", "content": [{"type": "text", "text": "yes"}]})
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )
    mask = inputs["assistant_masks"][0].bool()
    assert processor.decode(inputs["input_ids"][0][mask]) == "yes<|im_end|>"


def test_blocks_with_keys_that_are_none(processor, clip):
    blocks = [
        {"type": "image", "image": picture(60, 40), "video": None, "text": None},
        {"type": "video", "video": clip, "image": None, "num_frames": 3, "fps": None, "text": None},
        {"type": "text", "text": "?", "image": None, "video": None},
    ]
    inputs = tokens_of(processor, user(*blocks))
    assert len(inputs["pixel_values"]) == 7 and inputs["video_grid_thw"][:, 0].tolist() == [3]


@pytest.mark.filterwarnings("ignore:Asked for 64 frames")
def test_each_video_block_has_its_own_options(processor, clip):
    frames = [Image.fromarray(barcode(i)) for i in range(6)]
    messages = [
        user({"type": "video", "video": clip, "num_frames": 3}, {"type": "video", "video": clip}, "?"),
        user({"type": "video", "video": frames}, {"type": "video", "video": clip, "fps": 4, "max_frames": 5}),
    ]
    before = str(messages)
    assert tokens_of(processor, messages, num_frames=None)["video_grid_thw"][:, 0].tolist() == [3, 50, 6, 5]
    assert str(messages) == before


def test_each_image_block_has_its_own_limit_of_tiles(processor):
    image = picture(410, 300)  # its grids: 2 x 2, 3 x 2, 4 x 3; each with a thumbnail
    blocks = [{"type": "image", "image": image, "max_image_tiles": 6}, {"type": "image", "image": image}, "?"]
    messages = [user(*blocks), user("no image"), user({"type": "image", "image": image, "max_image_tiles": 1})]

    def tiles(*given, **options):
        inputs = tokens_of(processor, list(given), **options)
        return [n // (processor.image_repeats * processor.tokens_per_step) for n in visual_tokens(processor, inputs)]

    assert tiles(*messages) == tiles(*messages, max_image_tiles=None) == [7 + 13, 0, 1]
    assert tiles(*messages, max_image_tiles=4) == [7 + 5, 0, 1]
    assert tiles(*messages, images_kwargs={"max_image_tiles": [12, 4, 12]}) == [7 + 5, 0, 1]
    one = {"type": "image", "image": image, "max_image_tiles": 4}
    assert tiles(user(one, {**one, "max_image_tiles": None})) == [5 + 13]
    with pytest.warns(UserWarning, match=r"reduces the media: 7 -> \d+ tiles, 13 -> \d+ tiles"):
        assert tiles(messages[0], max_visual_tokens=40)[0] <= 10
    with pytest.raises(ValueError, match="max_image_tiles=0"):
        tiles(user({**one, "max_image_tiles": 0}))
    with pytest.raises(ValueError, match="1 numbers for 2 images"):
        tiles(user(one, one), max_image_tiles=[1])


def test_messages_that_are_objects(processor, clip):
    """transformers 5.24 accepts dataclasses and pydantic models as messages; their blocks' options count as well."""

    @dataclasses.dataclass
    class Message:
        role: str
        content: list
        name: str | None = None

    class Block:  # of a pydantic model only this is used
        def model_dump(self):
            return {"type": "video", "video": clip, "num_frames": 3, "fps": None}

    inputs = tokens_of(processor, [Message("user", [Block(), {"type": "text", "text": "?"}])])
    assert inputs["video_grid_thw"][:, 0].tolist() == [3]


def test_what_carries_a_blocks_options_passes_through_transformers(processor, clip):
    """It turns dataclasses and pydantic models that it finds in messages into dictionaries."""
    blocks = [
        {"type": "image", "image": picture(9, 9), "max_image_tiles": 2},
        {"type": "video", "path": clip, "fps": 1},
    ]
    image, video = (block[block["type"]] for block in normalize_messages(user(*blocks))[0]["content"])
    assert (image.max_image_tiles, video.sampling_options) == (2, {"fps": 1})
    for source in (image, video):
        assert not dataclasses.is_dataclass(source) and not hasattr(source, "model_dump")


def test_types_of_the_arguments(processor):
    """transformers' own tests read them."""
    parameters = inspect.signature(processor.__call__).parameters
    annotations = {name: parameters[name].annotation for name in ("images", "videos", "audio")}
    assert annotations == {"images": ImageInput | None, "videos": VideoInput | None, "audio": AudioInput | None}
    assert parameters["text"].annotation is not inspect.Parameter.empty


def test_options_that_a_block_may_not_have(processor, clip):
    for block, message in [
        ({"type": "image", "image": "a.png", "num_frames": 3}, r"\['num_frames'\].*image blocks may have max_image_t"),
        ({"type": "video", "video": clip, "max_image_tiles": 3}, r"\['max_image_tiles'\].*video blocks may have num"),
        ({"type": "video", "video": clip, "frames": 3}, r"Unknown options \['frames'\]"),
        ({"type": "video", "num_frames": 3}, "stand in a block without 'video'"),
    ]:
        with pytest.raises(ValueError, match=message):
            tokens_of(processor, user(block))


def test_budget_of_a_conversation(processor, clip):
    messages = [
        user({"type": "image", "image": picture(400, 300)}, {"type": "video", "video": clip, "num_frames": 32}),
        user({"type": "image", "image": picture(400, 300)}),
    ]
    free = visual_tokens(processor, tokens_of(processor, messages))
    assert visual_tokens(processor, tokens_of(processor, messages, max_visual_tokens=max(free))) == free
    with pytest.warns(UserWarning, match=r"max_visual_tokens=40 reduces the media: 13 -> \d+ tiles, 32 -> \d+ frames"):
        inputs = tokens_of(processor, messages, max_visual_tokens=40, return_metadata=True)
    tokens = visual_tokens(processor, inputs)
    assert max(tokens) <= 40
    video = inputs["visual_budget"][0][1]
    assert (video["kind"], video["wanted"]) == ("frames", 32) and video["granted"] == inputs["video_grid_thw"][0, 0]
    with pytest.raises(ValueError, match="max_visual_tokens=4 is too small for 2 images and videos"):
        tokens_of(processor, messages, max_visual_tokens=4)


def test_a_budget_drops_nothing(processor, clip):
    """Media without a placeholder are an error with a budget, too."""
    image = picture(9, 9)
    for media, found in [({"images": [image] * 2}, IMAGE), ({"videos": [clip] * 2}, VIDEO)]:
        with pytest.raises(ValueError, match=rf"{found} tokens in the prompts.* 2|1 {found} for 2"):
            processor(text=found, num_frames=2, max_visual_tokens=100, **media)


def test_a_budget_keeps_metadata_with_its_video(processor):
    """Each video's own frame rate decides how many frames it wants."""
    videos = [np.zeros((12, 9, 9, 3), np.uint8)] * 2
    metadata = [{"total_num_frames": 12, "fps": 12.0}, {"total_num_frames": 12, "fps": 3.0}]
    options = {"video_metadata": metadata, "fps": 2, "return_tensors": "pt"}
    free = processor(text=VIDEO * 2, videos=videos, **options)
    limited = processor(text=VIDEO * 2, videos=videos, max_visual_tokens=100, **options)
    assert free["video_grid_thw"][:, 0].tolist() == limited["video_grid_thw"][:, 0].tolist() == [2, 8]


def test_options_are_saved(processor, clip, tmp_path):
    other = preset_processor(preset_config("pvc-tiny", vision_config=SMALL), num_frames=9, max_frames=5)
    other.max_visual_tokens = 30
    other.image_processor.max_image_tiles = 2
    other.save_pretrained(tmp_path)
    loaded = PVCProcessor.from_pretrained(tmp_path)
    assert (loaded.max_visual_tokens, loaded.image_processor.max_image_tiles) == (30, 2)
    assert loaded.video_processor(clip)["video_grid_thw"] == [[5, 1, 1]]
    assert loaded.video_processor(clip, max_frames=7)["video_grid_thw"] == [[7, 1, 1]]


def test_deferred_normalisation(processor, clip):
    options = {"do_rescale": False, "do_normalize": False, "num_frames": 2, "return_tensors": "pt"}
    inputs = processor(images=[picture(60, 40)], text=IMAGE + VIDEO, videos=[clip], **options)
    assert inputs["pixel_values"].dtype == inputs["pixel_values_videos"].dtype == torch.uint8


def test_raw_frames_give_the_same_logits_for_a_quarter_of_the_bytes(processor, model, clip):
    image = picture(60, 40)

    def run(**options):
        inputs = processor(
            images=[image], text=IMAGE + VIDEO, videos=[clip], num_frames=3, return_tensors="pt", **options
        )
        with torch.no_grad():
            logits = model(**inputs).logits
        return logits, inputs["pixel_values"].nbytes + inputs["pixel_values_videos"].nbytes

    logits, size = run()
    raw_logits, raw_size = run(do_rescale=False, do_normalize=False)
    assert torch.equal(raw_logits, logits)  # the model's arithmetic is the processor's, operation by operation
    assert size == 4 * raw_size


def test_placeholders_must_match_the_media(processor, clip):
    for text, media in [("x", {"images": [picture(9, 9)]}), (IMAGE, {}), (VIDEO * 2, {"videos": [clip]}), (VIDEO, {})]:
        with pytest.raises(ValueError, match=r"videos|images"):
            processor(text=text, **media)
    with pytest.raises(ValueError, match="audio"):
        tokens_of(processor, user({"type": "audio", "audio": "a.wav"}))
