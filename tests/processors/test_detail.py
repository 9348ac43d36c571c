"""More steps for the frames of a stretch of time: a slide or a sign in a film."""

import numpy as np
import pytest
import torch
from conftest import small_config

from modeling_pvc import preset_processor
from modeling_pvc.media_pvc import VideoSource
from modeling_pvc.tools.costs import media_costs


SIGN = {"start": 0.4, "end": 0.9, "steps": 4}


def video(clip, **options):
    return [
        {"role": "user", "content": [{"type": "video", "path": str(clip), **options}, {"type": "text", "text": "?"}]}
    ]


def encoded(processor, *conversations, **options):
    return processor.apply_chat_template(
        list(conversations), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"padding": True, **options},
    )  # fmt: skip


def test_frames_in_the_stretch_have_more_steps(processor, clip):
    """12 frames at 6 per second: those at 0.5, 0.67 and 0.83 s lie in the stretch."""
    plain = encoded(processor, video(clip, num_frames=12))
    detailed = encoded(processor, video(clip, num_frames=12, detail=[SIGN]))
    steps = [1] * 3 + [4] * 3 + [1] * 6
    assert detailed["video_grid_thw"].tolist() == [[sum(steps), 1, 1]]
    expected = plain["pixel_values_videos"].repeat_interleave(torch.tensor(steps), dim=0)
    assert torch.equal(detailed["pixel_values_videos"], expected)
    lines = [f"Frame{i + 1}: <img>{processor.video_token * count}</img>" for i, count in enumerate(steps)]
    assert "\n".join(lines) in processor.tokenizer.decode(detailed["input_ids"][0])


@torch.no_grad()
def test_such_a_video_equals_one_whose_frame_stands_still(processor, model, clip):
    """And is the same beside others; the later stretch counts where two meet."""
    again = {"start": 0.8, "end": 0.9, "steps": 2}
    conversations = [video(clip, num_frames=5), video(clip, num_frames=12, detail=[SIGN, again]), video(clip)]
    batch = encoded(processor, *conversations)
    assert batch["video_grid_thw"][:, 0].tolist() == [5, 12 + 3 + 3 + 1, 4]
    features = model.get_video_features(batch["pixel_values_videos"], batch["video_grid_thw"]).pooler_output
    alone = encoded(processor, conversations[1])
    [expected] = model.get_video_features(alone["pixel_values_videos"], alone["video_grid_thw"]).pooler_output
    torch.testing.assert_close(features[1], expected, atol=1e-5, rtol=1e-5)
    assert model(**batch).logits.shape[:2] == batch["input_ids"].shape
    assert model.generate(**alone, max_new_tokens=2).shape[1] == alone["input_ids"].shape[1] + 2


def test_budget_and_costs_count_its_steps(processor, clip):
    options = {"num_frames": 12, "detail": [SIGN]}
    block = {"type": "video", "path": str(clip), **options}
    [message] = processor.apply_chat_template([[{"role": "user", "content": [block]}]], tokenize=False)
    assert message.count(processor.video_token) == 1
    with pytest.warns(UserWarning, match="reduces the media: 12 -> [0-9]+ frames"):
        inputs = encoded(processor, video(clip, **options), max_visual_tokens=15)
    assert int((inputs["input_ids"] == processor.video_token_id).sum()) <= 15
    assert int(inputs["video_grid_thw"][0, 0]) in range(5, 16)  # a frame of four steps among them
    [cost] = media_costs(processor, small_config().vision_config.grid_size, None, [VideoSource(str(clip), options)])
    assert (cost.count, cost.steps, cost.tokens) == (12, 21, 21)


@pytest.mark.parametrize(
    ("detail", "message"),
    [
        ([{"start": 0, "end": 1}], "is needed"),
        ([{"start": 0, "end": None, "steps": 2}], "is needed"),
        (["0-1"], "is needed"),
        ([{"start": 0, "end": 1, "steps": 0}], "steps=0"),
        ([{"start": 0, "end": 1, "steps": 1.5}], "steps=1.5"),
        ([{"start": -1, "end": 1, "steps": 2}], "start=-1"),
        ([{"start": "a", "end": 1, "steps": 2}], "start='a'"),
    ],
)
def test_what_is_no_stretch_is_refused(processor, clip, detail, message):
    with pytest.raises(ValueError, match=message):
        encoded(processor, video(clip, detail=detail))


def test_unknown_times_and_stretches_without_a_frame(processor, clip):
    frames = [np.zeros((9, 9, 3), np.uint8)] * 3
    with pytest.raises(ValueError, match="frame rate is unknown"):
        encoded(processor, [{"role": "user", "content": [{"type": "video", "video": frames, "detail": [SIGN]}]}])
    with pytest.warns(UserWarning, match="None of the frames"):
        inputs = encoded(processor, video(clip, num_frames=2, detail=[{"start": 9, "end": 10, "steps": 4}]))
    assert inputs["video_grid_thw"].tolist() == [[2, 1, 1]]


def test_the_policy_bounds_it(clip):
    processor = preset_processor(small_config(), num_frames=4)
    processor.media_policy = processor.media_policy.server(allowed_local_media_path=str(clip.parent))
    with pytest.raises(ValueError, match="max_frames=128"):
        encoded(processor, video(clip, detail=[{"start": 0, "end": 9, "steps": 10**9}]))
