"""What vLLM, SGLang and pipelines read of processor and model, without any of them: docs/serving.md says where."""

import hashlib

import numpy as np
import pytest
import torch
from conftest import small_model
from PIL import Image
from transformers import AutoVideoProcessor, pipeline
from transformers.utils import is_torchvision_available

from modeling_pvc import PVCVideoProcessor


pytestmark = pytest.mark.filterwarnings("ignore:Asked for")

# SGLang 0.5.23, ATTR_NAME_TO_MODALITY of its base processor: what else a processor returns is dropped without a word.
SGLANG_ATTRIBUTES = {
    "image": {"pixel_values", "image_sizes", "image_grid_thw", "num_patches", "image_attention_mask"},
    "video": {"pixel_values_videos", "second_per_grid_ts", "video_grid_thw"},
}


def picture(width=100, height=60, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def frames(count, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (count, 40, 50, 3), dtype=np.uint8)


def prompt(processor, *kinds):
    tokens = {"image": processor.image_token, "video": processor.video_token}
    return " ".join(tokens[kind] for kind in kinds)


def test_every_output_is_claimed_by_one_part(processor):
    """vLLM gives a field to the part in whose `model_input_names` it is, and none to the model that no part claims."""
    inputs = processor(
        text=prompt(processor, "image", "video"), images=[picture()], videos=[frames(3)], return_tensors="pt"
    )
    images, videos = processor.image_processor.model_input_names, processor.video_processor.model_input_names
    assert set(videos) == {"pixel_values_videos", "video_grid_thw"}
    assert set(inputs) - {"input_ids", "attention_mask"} == {*images, *videos} - set(processor.unused_input_names)
    assert set(images) <= SGLANG_ATTRIBUTES["image"] and set(videos) <= SGLANG_ATTRIBUTES["video"]


def test_rows_of_pixels_are_those_of_the_grid(processor):
    videos = [frames(3), frames(1, 1), frames(4, 2)]
    inputs = processor(text=prompt(processor, *["video"] * 3), videos=videos, return_tensors="pt")
    rows = inputs["video_grid_thw"].prod(-1)
    assert rows.tolist() == [3, 1, 4] and len(inputs["pixel_values_videos"]) == rows.sum()
    for part, video in zip(inputs["pixel_values_videos"].split(rows.tolist()), videos, strict=True):
        alone = processor(text=prompt(processor, "video"), videos=[video], return_tensors="pt")
        assert torch.equal(part, alone["pixel_values_videos"])


def test_runs_of_placeholders_are_frames_and_images(processor):
    """SGLang 0.5.23 cuts rows at the runs of placeholders: videos by the grid, if there is a run per frame;
    images one row each, if there are as many runs as rows, so that several tiles must not have several runs."""
    images, videos = [picture(300, 100), picture()], [frames(3), frames(2, 1)]
    text = prompt(processor, "image", "video", "image", "video")
    inputs = processor(text=text, images=images, videos=videos, return_tensors="pt")
    (ids,) = inputs["input_ids"]
    runs = {}
    for kind in ("image", "video"):
        placed = ids == getattr(processor, f"{kind}_token_id")
        runs[kind] = int((placed & ~placed.roll(1)).sum())
    assert runs == {"image": 2, "video": 5} and len(inputs["pixel_values"]) > 2


def test_features_are_per_item_and_do_not_depend_on_their_neighbours(processor):
    """vLLM encodes the items of several requests in one call, cuts the grid to them, and keeps each in its cache."""
    model = small_model()
    inputs = processor(text=prompt(processor, "video", "video"), videos=[frames(3), frames(2, 1)], return_tensors="pt")
    pixels, grid = inputs["pixel_values_videos"], inputs["video_grid_thw"]
    both = model.get_video_features(pixels, video_grid_thw=grid, return_dict=True).pooler_output
    turned = model.get_video_features(
        torch.cat([pixels[3:], pixels[:3]]), video_grid_thw=grid.flip(0), return_dict=True
    ).pooler_output
    for index, rows in enumerate((slice(0, 3), slice(3, 5))):
        alone = model.get_video_features(pixels[rows], video_grid_thw=grid[index : index + 1]).pooler_output
        torch.testing.assert_close(alone[0], both[index], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(turned[1 - index], both[index], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"num_frames": 4}, {"max_frames": 2}, {"num_frames": 9, "max_frames": 6}], ids=str
)
def test_tokens_are_counted_without_pixels(processor, options):
    """vLLM plans its memory by these, before it has seen a picture."""
    videos, images = [frames(3), frames(8, 1)], [picture(), picture(30, 300)]
    counted = processor._get_num_multimodal_tokens(
        image_sizes=[(image.height, image.width) for image in images],
        video_sizes=[video.shape[:3] for video in videos],
        **options,
    )
    text = prompt(processor, "image", "image", "video", "video")
    inputs = processor(text=text, images=images, videos=videos, return_tensors="pt", **options)
    tiles = processor.image_processor(images)["num_patches"]
    per_frame, per_tile = (
        processor.video_repeats * processor.tokens_per_step,
        processor.image_repeats * processor.tokens_per_step,
    )
    assert counted["num_video_tokens"] == (inputs["video_grid_thw"][:, 0] * per_frame).tolist()
    assert counted["num_image_patches"] == list(tiles) and counted["num_image_tokens"] == [n * per_tile for n in tiles]
    total = sum(counted["num_image_tokens"] + counted["num_video_tokens"])
    visual = torch.isin(inputs["input_ids"], torch.tensor([processor.image_token_id, processor.video_token_id]))
    assert total == visual.sum()


def test_by_time_the_count_is_an_upper_bound(processor):
    """With `fps` the number of frames follows from a duration, which a size does not have."""
    counted = processor._get_num_multimodal_tokens(video_sizes=[(10, 40, 50)], fps=1)["num_video_tokens"]
    assert counted == [10 * processor.video_repeats * processor.tokens_per_step]
    bounded = processor._get_num_multimodal_tokens(video_sizes=[(10, 40, 50)], fps=1, max_frames=4)
    assert bounded["num_video_tokens"] == [4 * processor.video_repeats * processor.tokens_per_step]


def test_equal_media_hash_equal(processor):
    """Engines keep what they encoded under a hash of the pixels: one file gives the same bits, beside others too."""

    def digests(*videos):
        inputs = processor(text=prompt(processor, *["video"] * len(videos)), videos=list(videos), return_tensors="pt")
        parts = inputs["pixel_values_videos"].split(inputs["video_grid_thw"].prod(-1).tolist())
        return [hashlib.sha256(part.numpy().tobytes()).hexdigest() for part in parts]

    same, again, other = digests(frames(4), frames(4), frames(4, 1))
    assert same == again != other and digests(frames(4)) == [same]


def test_frames_that_a_server_has_sampled(processor):
    """vLLM's loader takes 32 of more frames and passes on the metadata of all, with sampling off."""
    metadata = {"total_num_frames": 60, "fps": 25.0, "duration": 2.4, "frames_indices": list(range(0, 60, 15))}
    inputs = processor(
        text=prompt(processor, "video"), videos=[frames(4)], video_metadata=[metadata], do_sample_frames=False,
        return_tensors="pt",
    )  # fmt: skip
    assert inputs["video_grid_thw"].tolist() == [[4, 1, 1]]
    plain = processor(text=prompt(processor, "video"), videos=[frames(4)], do_sample_frames=False, return_tensors="pt")
    assert torch.equal(inputs["pixel_values_videos"], plain["pixel_values_videos"])


def test_audio_of_videos_is_not_looked_for(processor, clip):
    """transformers' server asks every model of its list for it."""
    messages = [{"role": "user", "content": [{"type": "video", "path": str(clip)}, {"type": "text", "text": "What?"}]}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    plain = processor.apply_chat_template(messages, **options)
    asked = processor.apply_chat_template(messages, load_audio_from_video=True, **options)
    assert set(plain) == set(asked) and all(torch.equal(plain[key], asked[key]) for key in plain)


@pytest.mark.parametrize("task", ["image-text-to-text", "any-to-any"])
def test_pipelines(processor, clip, task):
    if task == "any-to-any" and not is_torchvision_available():
        with pytest.raises(ImportError, match="requires the Torchvision library"):  # transformers' own requirement
            pipeline(task, model=small_model(), processor=processor)
        return
    ask = pipeline(task, model=small_model(), processor=processor)
    media = [{"type": "video", "path": str(clip)}, {"type": "image", "image": picture()}]
    messages = [{"role": "user", "content": [*media, {"type": "text", "text": "?"}]}]
    (answer,) = ask(text=messages, max_new_tokens=3, return_full_text=False)
    assert isinstance(answer["generated_text"], str)


@pytest.mark.skipif(is_torchvision_available(), reason="says what is missing without it")
def test_the_auto_video_processor_says_that_it_needs_torchvision(checkpoint):
    """transformers' own requirement; `AutoProcessor` and `PVCVideoProcessor` do without."""
    with pytest.raises(ImportError, match="requires the Torchvision library"):
        AutoVideoProcessor.from_pretrained(checkpoint)
    assert PVCVideoProcessor.from_pretrained(checkpoint).num_frames == 4
