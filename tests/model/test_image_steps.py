"""Elastic steps: images of different numbers of steps in one batch, against each alone and against a naive form."""

import json

import pytest
import torch
from conftest import small_config, small_model
from huggingface_hub.errors import StrictDataclassFieldValidationError
from PIL import Image
from test_encoder import frames, make_encoder, naive_encode_clip

from modeling_pvc import PVCDataCollator, PVCPreferenceCollator, PVCProcessor, preset_processor
from modeling_pvc.temporal_cache_pvc import TileOrder, interleaved_order, tile_runs


COUNTS = [4, 1, 1, 8, 2, 4, 1]


def picture(seed, width=60, height=60):
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def question(seed, steps=None, **size):
    blocks = [{"type": "image", "image": picture(seed, **size), "image_steps": steps}, {"type": "text", "text": "?"}]
    return [{"role": "user", "content": blocks}]


def encoded(processor, conversations, **options):
    return processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left", **options},
    )  # fmt: skip


@torch.no_grad()
def test_each_tile_has_its_own_number_of_steps():
    encoder = make_encoder()
    tiles, video = frames(len(COUNTS)), frames(3, seed=9)
    output = encoder(tiles, video[None], image_steps=torch.tensor(COUNTS))
    clips = [tile[None].expand(count, -1, -1, -1) for tile, count in zip(tiles, COUNTS)]
    expected = torch.cat([naive_encode_clip(encoder, clip) for clip in [*clips, video]])
    torch.testing.assert_close(output.last_hidden_state, expected, atol=1e-10, rtol=1e-10)
    assert output.step_index.tolist() == [step for count in [*COUNTS, 3] for step in range(count)]


@torch.no_grad()
@pytest.mark.parametrize(
    ("implementation", "shapes"), [("sdpa", [(1, 64), (1, 8), (1, 60)]), ("eager", [(18, 4), (3, 20)])]
)
def test_tiles_of_few_steps_share_rows_of_temporal_attention(implementation, shapes):
    """A tile is encoded as if alone; eager attention keeps a row per tile, whose weights it returns."""
    encoder = make_encoder()
    encoder.set_attn_implementation(implementation)
    counts = [4] * 18 + [20] * 3
    tiles = frames(len(counts))
    runs = tile_runs(len(counts), torch.tensor(counts), 4)
    groups = encoder.clip_layout(runs, (0, 0), None, tiles.device)[2]
    assert [(group.num_clips, group.num_steps) for group in groups] == shapes
    output = encoder(tiles, image_steps=torch.tensor(counts)).last_hidden_state
    expected = [naive_encode_clip(encoder, tile[None].expand(n, -1, -1, -1)) for tile, n in zip(tiles, counts)]
    torch.testing.assert_close(output, torch.cat(expected), atol=1e-10, rtol=1e-10)


def test_tiles_of_as_many_steps_are_encoded_together_wherever_they_stand():
    counts = [1, 4, 1, 2, 4, 4, 1]
    order = TileOrder(tile_runs(len(counts), torch.tensor(counts), 4))
    assert order.runs == [(3, 1), (1, 2), (3, 4)]
    frames_ = order.sort(torch.arange(len(counts) + 2))  # two frames of a video behind the tiles
    assert frames_.tolist() == [0, 2, 6, 3, 1, 4, 5, 7, 8]
    steps = torch.cat([frames_[i].repeat(n) for i, n in enumerate([1, 1, 1, 2, 4, 4, 4, 1, 1])])
    assert order.restore(steps).tolist() == [0, 1, 1, 1, 1, 2, 3, 3, *[4] * 4, *[5] * 4, 6, 7, 8]


@torch.no_grad()
def test_what_is_recorded_in_the_layers_is_in_the_order_given():
    encoder = make_encoder()
    counts = torch.tensor([1, 2, 1, 2])
    output = encoder(frames(4), image_steps=counts, output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    torch.testing.assert_close(
        output.last_hidden_state, encoder(frames(4), image_steps=counts).last_hidden_state, atol=1e-10, rtol=1e-10
    )


@torch.no_grad()
def test_the_first_steps_do_not_depend_on_how_many_follow():
    encoder = make_encoder()
    long = encoder(frames(2), image_steps=torch.tensor([8, 8])).last_hidden_state.unflatten(0, (2, 8))
    for count in (1, 2, 5):
        short = encoder(frames(2), image_steps=torch.full((2,), count)).last_hidden_state.unflatten(0, (2, count))
        torch.testing.assert_close(short, long[:, :count], atol=1e-12, rtol=1e-12)


@torch.no_grad()
def test_the_models_own_number_given_or_not_is_the_same():
    model = small_model(torch.float64)
    tiles = frames(3)
    given = model.get_image_features(tiles, image_steps=torch.full((3,), 4))
    absent = model.get_image_features(tiles)
    assert torch.equal(given.pooler_output, absent.pooler_output)
    assert torch.equal(given.last_hidden_state, absent.last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("order", ["sequential", "interleaved"])
def test_features_of_unequal_steps_are_a_list_per_tile(order):
    model = small_model(torch.float64, vision={"image_size": 112}, image_token_order=order)
    tiles = torch.randn(len(COUNTS), 3, 112, 112, dtype=torch.float64)
    features = model.get_image_features(tiles, image_steps=torch.tensor(COUNTS)).pooler_output
    for tile, count, found in zip(tiles, COUNTS, features, strict=True):
        alone = model.get_image_features(tile[None], image_steps=torch.tensor([count])).pooler_output[0]
        assert found.shape == (count * model.config.tokens_per_step, model.config.text_config.hidden_size)
        torch.testing.assert_close(found, alone, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 9])
def test_interleaved_order_is_the_raster_of_the_finer_grid(steps):
    side, phase = 3, 2
    places = {}
    for step in range(steps):
        for row in range(side):
            for column in range(side):
                sub = step % phase**2
                place = (step // phase**2, row * phase + sub // phase, column * phase + sub % phase)
                places[place] = (step * side + row) * side + column
    expected = [places[place] for place in sorted(places)]
    assert interleaved_order(side, phase, steps, torch.device("cpu")).tolist() == expected


@torch.no_grad()
def test_a_mixed_batch_equals_each_alone(model, processor):
    conversations = [question(seed, steps) for seed, steps in enumerate([1, 4, None, 8, 3])]
    conversations.append(question(9, 2, width=200))  # several tiles
    conversations.append([{"role": "user", "content": "no picture"}])
    batch = encoded(processor, conversations)
    tiles = len(batch["pixel_values"]) - 5
    assert batch["image_steps"].tolist() == [1, 4, 4, 8, 3] + [2] * tiles and tiles > 1
    logits = model(**batch).logits
    for row, conversation in zip(logits, conversations):
        alone = encoded(processor, [conversation])
        expected = model(**alone).logits[0]
        torch.testing.assert_close(row[-len(expected) :], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_generation_keeps_the_steps_with_beams_and_several_answers(model, processor):
    inputs = encoded(processor, [question(0, 1), question(1, 8)])
    greedy = {"max_new_tokens": 5, "do_sample": False}
    alone = [
        model.generate(**encoded(processor, [question(seed, steps)]), **greedy)[0, -5:]
        for seed, steps in ((0, 1), (1, 8))
    ]
    assert torch.equal(model.generate(**inputs, **greedy)[:, -5:], torch.stack(alone))
    several = model.generate(**inputs, **greedy | {"num_beams": 2, "num_return_sequences": 2})
    assert len(several) == 4


def test_call_and_processor_and_block_say_how_many(processor, tmp_path):
    conversations = [[*question(0)], [*question(1, 3)]]
    assert "image_steps" not in encoded(processor, conversations[:1])
    assert encoded(processor, conversations)["image_steps"].tolist() == [4, 3]
    assert encoded(processor, conversations, image_steps=2)["image_steps"].tolist() == [2, 3]
    assert encoded(processor, conversations, image_steps=[1, 1])["image_steps"].tolist() == [1, 3]
    assert encoded(processor, conversations[1:], image_steps=4)["image_steps"].tolist() == [3]
    other = preset_processor(small_config())
    other.image_steps = 1
    other.save_pretrained(tmp_path)
    other = PVCProcessor.from_pretrained(tmp_path)
    assert encoded(other, conversations)["image_steps"].tolist() == [1, 3]
    assert "image_steps" not in encoded(other, conversations[:1], image_steps=4)
    predicted = processor._get_num_multimodal_tokens([(60, 60), (60, 60)], image_steps=[1, 8])
    assert predicted["num_image_tokens"] == [1, 8]


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "2"])
def test_what_is_no_number_of_steps_is_refused(processor, steps):
    with pytest.raises(ValueError, match="image_steps="):
        encoded(processor, [question(0, steps)])
    with pytest.raises((ValueError, StrictDataclassFieldValidationError), match="image_steps"):  # its types: upstream
        encoded(processor, [question(0)], image_steps=steps)


def test_a_processor_file_is_checked_when_it_is_loaded(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    for steps in (0, "2", True):
        file.write_text(json.dumps({**json.loads(file.read_text()), "image_steps": steps}))
        with pytest.raises(ValueError, match="image_steps="):
            PVCProcessor.from_pretrained(tmp_path)


def test_numbers_that_do_not_fit_are_refused(model, processor):
    with pytest.raises(ValueError, match="3 numbers for 1 images"):
        encoded(processor, [question(0)], image_steps=[1, 2, 3])
    with pytest.raises(ValueError, match=r"shape \[2\] for 3 tiles"):
        tile_runs(3, torch.tensor([1, 2]), 4)
    with pytest.raises(ValueError, match="at least 1 step"):
        tile_runs(2, torch.tensor([1, 0]), 4)
    with pytest.raises(ValueError, match=r"shape \[1\] for 0 tiles"):
        make_encoder()(pixel_values_videos=frames(2)[None], image_steps=torch.tensor([2]))
    inputs = encoded(processor, [question(0, 2)])
    del inputs["image_steps"]  # as a trainer that does not know it does
    with pytest.raises(ValueError, match="has 2 image tokens, the media give 4"):
        model(**inputs)


def test_a_budget_counts_the_steps(processor):
    wide = question(0, 2, width=300)
    wanted = len(encoded(processor, [wide])["pixel_values"])
    with pytest.warns(UserWarning, match="reduces the media"):
        inputs = encoded(processor, [wide], max_visual_tokens=2 * wanted - 2)
    assert inputs["image_steps"].tolist() == [2] * len(inputs["pixel_values"])
    assert len(inputs["pixel_values"]) < wanted
    with pytest.raises(ValueError, match="too small"):
        encoded(processor, [question(0, 50)], max_visual_tokens=49)


def test_a_batch_of_unequal_steps_trains(processor):
    model = small_model().train()
    answer = {"role": "assistant", "content": "yes"}
    rows = [{"messages": [*question(seed, steps), answer]} for seed, steps in enumerate([1, 4, 7])]
    collator = PVCDataCollator(processor)
    losses = [model(**collator([row])).loss.item() for row in rows]  # with equally many answer tokens each
    batch = model(**collator(rows))
    batch.loss.backward()
    assert abs(batch.loss.item() - sum(losses) / 3) < 1e-5
    gates = [p.grad for name, p in model.named_parameters() if "temporal_gate" in name]
    assert all(grad.abs().sum() > 0 for grad in gates)


@torch.no_grad()
def test_preference_pairs_keep_the_steps(model, processor):
    answers = {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    rows = [{"prompt": question(seed, steps), **answers} for seed, steps in enumerate([1, 6])]
    batch = PVCPreferenceCollator(processor)(rows)
    assert batch["image_steps"].tolist() == [1, 6, 1, 6]
    batch.pop("completion_mask")
    assert len(model(**batch).logits) == 4
