"""Text families behind the encoder: equal to their own causal LM, or refused with the reason."""

import pytest
import torch
from text_families import CONFIG_MAPPING, FAMILIES, TOLERANCE, compare, pair, text_config

from modeling_pvc import PVCConfig, PVCForConditionalGeneration


REFUSED = {
    "mamba": "none of its layers has a cache of keys and values",
    "minimax": "its cache is a class of its own",
    "gemma4_text": "its layers embed token ids once more",
    "opt": "the backbone's `decoder` by itself",
    "bert": "beside its backbone it has cls, not one linear layer",
}
# One of each kind: plain, scaled, capped, with a bias, hybrid, mixtures of experts.
EQUAL = ("qwen3", "granite", "cohere", "gemma2", "gemma3_text", "phi", "falcon_h1", "lfm2", "qwen3_moe", "gpt_oss")


def skip_unless_native(family):
    if family not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {family}")


@pytest.mark.parametrize("family", EQUAL)
def test_logits_loss_and_tokens_are_the_family_s(family):
    skip_unless_native(family)
    causal_lm, model = pair(family)
    found = compare(causal_lm, model)
    assert max(found["logits"], found["loss"], found["aux_loss"]) <= TOLERANCE
    assert found["greedy"]


@pytest.mark.parametrize("family", ["falcon_h1", "lfm2", "qwen3_next"])
def test_packed_rows_are_refused_where_layers_keep_a_state(family):
    skip_unless_native(family)
    model = PVCForConditionalGeneration(PVCConfig(text_config=text_config(family)))
    ids, positions = torch.arange(3, 9)[None], torch.tensor([[0, 1, 2, 0, 1, 2]])
    with pytest.raises(ValueError, match=f"{family} has layers that keep a state"):
        model(input_ids=ids, position_ids=positions)
    model(input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids))  # as left padding has them


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_equal_is_refused_at_construction(family):
    skip_unless_native(family)
    with pytest.raises(ValueError, match=f"'{family}' cannot be PVC's text model: .*{REFUSED[family]}"):
        PVCForConditionalGeneration(PVCConfig(text_config=text_config(family)))


def test_every_listed_family_has_a_small_shape():
    for family in FAMILIES:
        if family in CONFIG_MAPPING:
            assert text_config(family).num_hidden_layers <= 4


@torch.no_grad()
def test_the_auxiliary_loss_is_in_the_loss_when_asked_for():
    _, model = pair("qwen3_moe")
    ids = torch.arange(3, 27)[None]
    plain = model(input_ids=ids, labels=ids)
    routed = model(input_ids=ids, labels=ids, output_router_logits=True)
    assert plain.aux_loss is None and plain.router_logits is None
    coefficient = model.config.text_config.router_aux_loss_coef
    torch.testing.assert_close(routed.loss, plain.loss + coefficient * routed.aux_loss)
    assert len(routed.router_logits) == model.config.text_config.num_hidden_layers
    assert len(model.model(input_ids=ids, output_router_logits=True).router_logits) == 2  # where TRL reads it


def test_a_head_with_a_bias_is_saved_and_loaded(tmp_path):
    _, model = pair("phi")
    model.save_pretrained(tmp_path)
    loaded = PVCForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(loaded.lm_head.bias, model.lm_head.bias)


@pytest.mark.parametrize("family", ["gemma3_text", "qwen3"])
def test_embeddings_are_tied_as_the_family_ties_them(family):
    config = text_config(family)
    model = PVCForConditionalGeneration(PVCConfig(text_config=config))
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    assert tied == config.tie_word_embeddings == model.config.tie_word_embeddings
