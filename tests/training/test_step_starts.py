"""Starts whose steps differ: against the equation written out, and what becomes of a picture's four steps."""

import copy

import pytest
import torch
from conftest import small_config, small_model
from torch import nn

from modeling_pvc import PVCForConditionalGeneration, start_compressor


HADAMARD = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2
EMPHASIS = torch.tensor([[2, 2, 2, 2], [3, 3, 1, 1], [3, 1, 3, 1], [3, 1, 1, 3]]) / 4
PATTERNS = {"switch": torch.eye(4), "coarse_to_fine": HADAMARD, "emphasis": EMPHASIS}


@pytest.mark.parametrize("start", PATTERNS)
@torch.no_grad()
def test_a_step_takes_its_pattern_of_the_sub_blocks(start):
    model = small_model().model
    compressor = copy.deepcopy(model.compressor)
    start_compressor(compressor, start)
    width = 4 * model.config.vision_config.hidden_size
    patches = torch.randn(9, 17, width // 4, generator=torch.Generator().manual_seed(0))
    grid = patches[:, 1:].unflatten(
        1, (2, 2, 2, 2)
    )  # rows of sub-blocks, rows in them, columns of sub-blocks, in them
    blocks = compressor.layer_norm(grid.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2))  # [9, 4, 4 D]
    weight = compressor.linear_1.weight[:, :width]
    for step in range(9):
        mixed = torch.einsum("b,bd->d", PATTERNS[start][step % 4], blocks[step])
        hidden = compressor.act(weight @ mixed + compressor.linear_1.bias)
        expected = compressor.linear_2(hidden)
        steps, index = torch.tensor([step]), torch.tensor([0])
        tokens = compressor(patches[step : step + 1], steps, index)
        torch.testing.assert_close(tokens[0, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("start", PATTERNS)
def test_four_steps_lose_nothing_and_all_of_it_learns(start):
    pattern = PATTERNS[start]
    if start == "emphasis":
        assert pattern.det().item() == pytest.approx(-0.125)  # it has an inverse
    else:
        assert torch.equal(pattern @ pattern.T, torch.eye(4))
    model = PVCForConditionalGeneration(small_config())
    start_compressor(model.model.compressor, start)
    tokens = model.get_image_features(torch.randn(1, 3, 56, 56)).pooler_output[0]
    distances = [1 - nn.functional.cosine_similarity(tokens[0], later, dim=-1).item() for later in tokens[1:]]
    assert min(distances) > 0.05, distances
    tokens.square().mean().backward()
    for name, parameter in model.model.compressor.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_without_a_start_the_steps_of_a_picture_are_equal():
    tokens = PVCForConditionalGeneration(small_config()).get_image_features(torch.randn(1, 3, 56, 56)).pooler_output[0]
    torch.testing.assert_close(tokens, tokens[:1].expand_as(tokens))


def test_what_cannot_have_a_start_is_refused():
    compressor = small_model().model.compressor
    with pytest.raises(ValueError, match="start='hadamard' is none of switch, coarse_to_fine, emphasis"):
        start_compressor(compressor, "hadamard")
    wide = PVCForConditionalGeneration(small_config(downsample_ratio=0.5)).model.compressor
    with pytest.raises(ValueError, match="not of 2 x 2"):
        start_compressor(wide)
