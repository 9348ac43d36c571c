"""PVCForConditionalGeneration: inputs in any mix, generation in every mode, loading and saving, clear errors."""

import inspect

import pytest
import torch
from batches import FRAMES, IMAGE, TILES, VIDEO, batch_of, grid, pixels, prompt
from conftest import small_config, small_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_pvc import PVCForConditionalGeneration, PVCModel, PVCVisionModel
from modeling_pvc.compat_pvc import INSTALLED


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 3)])
@torch.no_grad()
def test_a_batch_equals_its_items(order, side):
    model = small_model(torch.float64)
    batch = batch_of(order, side)
    logits = model(**batch).logits
    for row, index in enumerate(order):
        alone = model(**batch_of([index])).logits[0]
        together = logits[row][batch["attention_mask"][row].bool()]
        torch.testing.assert_close(together, alone, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("text", ["qwen2", "qwen3", "llama"])
@torch.no_grad()
def test_text_models(text):
    model = small_model(text_config={"model_type": text, "head_dim": 16})
    outputs = model(**batch_of([1, 3]))
    assert outputs.logits.shape == (2, 10, 264) and outputs.logits.isfinite().all()
    assert outputs.image_hidden_states.shape == (12, 64) and outputs.video_hidden_states.shape == (2, 64)


@torch.no_grad()
def test_features_by_image_and_video(model):
    images = model.get_image_features(TILES[1])
    assert images.pooler_output.shape == (2, 4, 64) and images.last_hidden_state.shape == (2, 4 * 17, 64)
    videos = model.get_video_features(torch.cat([FRAMES[2], FRAMES[3]]), grid(3, 2))
    assert [tuple(video.shape) for video in videos.pooler_output] == [(3, 64), (2, 64)]
    same = model.get_video_features(FRAMES[2][None]).pooler_output[0]
    torch.testing.assert_close(same, videos.pooler_output[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_features_instead_of_pixels(model):
    batch = batch_of([1, 3])
    expected = model(**batch).logits
    outputs = {
        "image": model.get_image_features(batch.pop("pixel_values")),
        "video": model.get_video_features(batch.pop("pixel_values_videos"), batch.pop("video_grid_thw")),
    }
    torch.testing.assert_close(model(**batch, mm_encoder_outputs=outputs).logits, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="not both"):
        model(**batch_of([1]), mm_encoder_outputs=outputs)


@torch.no_grad()
def test_interleaved_order_is_the_raster_of_the_finer_grid():
    """Step t fills sub-position t (row-major) of each 2 x 2 block of InternVL's token grid."""
    vision = {"image_size": 112}  # 8 x 8 patches, 2 x 2 tokens per step, InternVL's grid is 4 x 4
    sequential = small_model(vision=vision)
    tiles = torch.randn(2, 3, 112, 112)
    steps = sequential.get_image_features(tiles).pooler_output.view(2, 4, 2, 2, 64)
    grid = torch.empty(2, 4, 4, 64)
    for t in range(4):
        grid[:, t // 2 :: 2, t % 2 :: 2] = steps[:, t]
    interleaved = small_model(vision=vision, image_token_order="interleaved")
    torch.testing.assert_close(interleaved.get_image_features(tiles).pooler_output, grid.flatten(1, 2))


GENERATION_MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 0.7},
    "beam": {"num_beams": 3},
    "beam sampling": {"num_beams": 2, "do_sample": True},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunked prefill": {"prefill_chunk_size": 4},
}


@pytest.mark.parametrize("mode", GENERATION_MODES)
def test_generate(model, mode):
    kwargs = {"do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5, **GENERATION_MODES[mode]}
    batch = batch_of([0, 1, 2, 3])
    if mode == "chunked prefill" and INSTALLED < (5, 23):
        with pytest.raises(ValueError, match=r"prefill_chunk_size=4: .*transformers>=5.23"):
            model.generate(**batch, **kwargs)
        return
    output = model.generate(**batch, **kwargs)
    assert output.shape == (4 * kwargs.get("num_return_sequences", 1), batch["input_ids"].shape[1] + 5)
    if mode in ("no cache", "static cache", "chunked prefill"):
        assert torch.equal(output, model.generate(**batch, max_new_tokens=5, min_new_tokens=5, do_sample=False))


def test_generate_from_embeddings(model):
    kwargs = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    batch = batch_of([0, 1, 2, 3])
    expected = model.generate(**batch, **kwargs)[:, batch["input_ids"].shape[1] :]
    embeddings = model.get_input_embeddings()(batch.pop("input_ids"))
    assert torch.equal(model.generate(inputs_embeds=embeddings, **batch, **kwargs), expected)


@pytest.mark.parametrize("mode", [{}, {"use_cache": False}, {"num_beams": 2}, {"temperature": 50.0}])
def test_placeholders_are_never_sampled(model, mode):
    torch.manual_seed(0)
    favoured = small_model()
    with torch.no_grad():
        favoured.lm_head.weight[[IMAGE, VIDEO]] *= 100  # one of the two is by far the likeliest or the unlikeliest
    output = favoured.generate(**batch_of([0, 1, 2, 3]), do_sample="temperature" in mode, max_new_tokens=6, **mode)
    new = output[:, batch_of([0, 1, 2, 3])["input_ids"].shape[1] :]
    assert not torch.isin(new, torch.tensor([IMAGE, VIDEO])).any()


@torch.no_grad()
def test_a_completion_with_stray_placeholders_is_scored():
    # 56 px and two tokens per side: 4 tokens per step, so that fewer in a row are no picture
    model = small_model(vision={"image_size": 112})
    tiles = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([prompt(1, ("image", 16), 2, 3)])
    completion = torch.tensor([[5, IMAGE, 6, VIDEO, VIDEO, 7]])
    logits = model(input_ids=torch.cat([ids, completion], 1), pixel_values=tiles).logits
    torch.testing.assert_close(logits[:, : ids.shape[1]], model(input_ids=ids, pixel_values=tiles).logits)
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        model(input_ids=torch.cat([ids, torch.tensor([prompt(("image", 4))])], 1), pixel_values=tiles)


def test_generate_equals_forward(model):
    batch = batch_of([3])
    output = model.generate(**batch, max_new_tokens=4, do_sample=False, min_new_tokens=4)
    ids = batch["input_ids"]
    for _ in range(4):
        with torch.no_grad():
            positions = torch.arange(ids.shape[1])[None]
            rest = {"attention_mask": torch.ones_like(ids), "position_ids": positions}
            logits = model(**{**batch, "input_ids": ids, **rest}).logits
        logits[..., 258] = -torch.inf  # min_new_tokens forbids the end token
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(output, ids)


def test_an_assistant_model_sees_the_media(model):
    """`generate` never calls it an assistant's first iteration; it must get the features all the same."""
    batch = batch_of([3])
    greedy = model.generate(**batch, max_new_tokens=6, do_sample=False)
    assert torch.equal(
        model.generate(**batch, max_new_tokens=6, do_sample=False, assistant_model=small_model()), greedy
    )


def test_embeddings_instead_of_ids(model):
    batch = batch_of([1, 3])
    with torch.no_grad():
        expected = model(**batch).logits
        batch["inputs_embeds"] = model.get_input_embeddings()(batch.pop("input_ids"))
        torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=1e-5)


def test_loss_and_logits_to_keep(model):
    batch = batch_of([1, 3])
    outputs = model(**batch, labels=batch["input_ids"])
    outputs.loss.backward()
    assert all(p.grad is not None for p in model.model.compressor.parameters())
    model.zero_grad()
    with torch.no_grad():
        torch.testing.assert_close(model(**batch, logits_to_keep=2).logits, outputs.logits[:, -2:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"pixel_values": pixels(3)},
            r"Image features and image tokens do not match.*8 image tokens.*give 12 .*trunc",
        ),
        ({"pixel_values": None}, r"8 image placeholders but no image reached the model.*pixel_values"),
        ({"input_ids": None}, "exactly one of `input_ids` and `inputs_embeds`"),
    ],
)
@torch.no_grad()
def test_prompts_that_do_not_fit_their_media(model, change, message):
    with pytest.raises(ValueError, match=message):
        model(**{**batch_of([1]), **change})


def test_a_video_prompt_without_video(model):
    batch = {key: value for key, value in batch_of([2]).items() if "video" not in key}
    with pytest.raises(ValueError, match=r"3 video placeholders.*pixel_values_videos"):
        model.generate(**batch, max_new_tokens=2)


@torch.no_grad()
def test_stray_placeholders_are_text():
    """A model may sample a placeholder; less than a step of them in a row does not ask for media."""
    model = small_model(vision={"image_size": 112})  # 4 tokens per step
    assert model(torch.tensor([[1, IMAGE, IMAGE, IMAGE, 2, VIDEO, 3]])).logits.isfinite().all()
    with pytest.raises(ValueError, match="4 image placeholders but no image"):
        model(torch.tensor([[1, IMAGE, IMAGE, IMAGE, IMAGE]]))


def test_the_backbone_says_where_generate_is(checkpoint):
    backbone = AutoModel.from_pretrained(checkpoint)
    assert isinstance(backbone, PVCModel) and not hasattr(backbone, "generate")
    with pytest.raises(AttributeError, match="AutoModelForImageTextToText"):
        backbone.generate()


def test_auto_classes_of_the_installed_package(checkpoint):
    for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
        assert type(auto.from_pretrained(checkpoint)) is PVCForConditionalGeneration


@torch.no_grad()
def test_the_encoder_loads_from_a_full_checkpoint_and_saves_alone(checkpoint, model, tmp_path):
    encoder = PVCVisionModel.from_pretrained(checkpoint)
    encoder.save_pretrained(tmp_path)
    assert (tmp_path / "modeling_vision_pvc.py").exists()
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    expected = model.model.vision_tower(TILES[1]).last_hidden_state
    assert torch.equal(loaded(TILES[1]).last_hidden_state, expected)


@pytest.mark.parametrize("damage", ["missing", "unexpected"])
def test_a_checkpoint_that_does_not_fit_is_refused(damage, checkpoint, tmp_path):
    weights = load_file(checkpoint / "model.safetensors")
    if damage == "missing":
        del weights["model.compressor.linear_1.weight"]
    else:
        weights["model.compressor.linear_3.weight"] = torch.zeros(2)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    with pytest.raises(ValueError, match=rf"1 {damage} weights, such as model.compressor.linear_[13].weight"):
        PVCForConditionalGeneration.from_pretrained(tmp_path)
    _, info = PVCForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert len(info[f"{damage}_keys"]) == 1


def test_tied_embeddings(tmp_path):
    model = small_model(tie_word_embeddings=True)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    loaded = PVCForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight


def test_every_parameter_survives_the_meta_device(checkpoint, model):
    loaded = PVCForConditionalGeneration.from_pretrained(checkpoint)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    fresh = PVCForConditionalGeneration(small_config())
    gates = [layer.temporal_gate.weight for layer in fresh.model.vision_tower.layers[2:]]
    assert all((gate == 0).all() for gate in gates)
    assert isinstance(fresh.model.get_video_features(FRAMES[2][None]), BaseModelOutputWithPooling)


@torch.no_grad()
def test_frames_without_a_grid_are_refused_unless_the_prompts_say_that_they_are_one_each(model):
    ids, frames = torch.tensor([prompt(1, ("video", 3), 2)]), pixels(3)
    split = torch.tensor([prompt(1, ("video", 3), 2), prompt(1, 2, 3, 4, 5), prompt(1, 2, 3, 4, 5)])
    for refused in (ids, split):  # as many frames as prompts, in the second case
        with pytest.raises(ValueError, match="3 frames without video_grid_thw, which may be one video or several"):
            model(input_ids=refused, pixel_values_videos=frames)
        with pytest.raises(ValueError, match="3 frames without video_grid_thw"):
            model.generate(input_ids=refused, pixel_values_videos=frames, max_new_tokens=1)
    with pytest.raises(ValueError, match="3 frames without video_grid_thw"):
        model.get_video_features(frames)
    assert len(model.get_video_features(frames[:1]).pooler_output) == 1
    expected = model(input_ids=ids, pixel_values_videos=frames, video_grid_thw=grid(3)).logits
    torch.testing.assert_close(model(input_ids=ids, pixel_values_videos=frames[None]).logits, expected)
    rows = torch.tensor([prompt(1, ("video", 1), 2)] * 3)
    one_each = model(input_ids=rows, pixel_values_videos=frames).logits
    torch.testing.assert_close(one_each[:1], model(input_ids=rows[:1], pixel_values_videos=frames[:1]).logits)
    assert torch.equal(
        model(input_ids=rows, pixel_values_videos=frames, video_grid_thw=grid(1, 1, 1)).logits, one_each
    )
    answers = [
        model.generate(input_ids=rows, pixel_values_videos=frames, max_new_tokens=4, **given)
        for given in ({}, {"video_grid_thw": grid(1, 1, 1)})
    ]
    assert torch.equal(*answers)


@torch.no_grad()
def test_counts_of_frames_are_still_taken(model):
    """`num_frames_per_video` was the name until engines made us choose `video_grid_thw`."""
    new = batch_of([2, 3])
    old = {key: value for key, value in new.items() if key != "video_grid_thw"}
    for counts in (torch.tensor([3, 2]), [3, 2]):
        assert torch.equal(model(**old, num_frames_per_video=counts).logits, model(**new).logits)
        answers = (
            model.generate(**old, num_frames_per_video=counts, max_new_tokens=3),
            model.generate(**new, max_new_tokens=3),
        )
        assert torch.equal(*answers)
    frames = new["pixel_values_videos"]
    for part in (model, model.model):
        videos = part.get_video_features(frames, num_frames_per_video=torch.tensor([3, 2])).pooler_output
        for actual, expected in zip(videos, part.get_video_features(frames, grid(3, 2)).pooler_output, strict=True):
            assert torch.equal(actual, expected)
    both = {**new, "num_frames_per_video": torch.tensor([3, 2])}
    with pytest.raises(ValueError, match="Pass video_grid_thw alone"):
        model(**both)


def test_the_grid_is_a_named_argument_where_engines_look_for_it(model):
    for part in (model, model.model):
        for function in (part.forward, part.get_video_features):
            assert "video_grid_thw" in inspect.signature(function).parameters
