"""What a LoRA configuration adapts and trains, by module name."""

import pytest
import torch
from batches import batch_of
from conftest import small_config, small_model
from peft import LoraConfig, get_peft_model
from sharded_training import loss_of, make_model

from modeling_pvc import PVCForConditionalGeneration, freeze_all_but_new_parts, pvc_lora_config


ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
STEP_EMBEDDING = ("linear_1", "linear_2")
# Of the small model: two layers of text, two spatial and two progressive layers.
LINEAR = {
    "language": [
        *(f"language_model.layers.{i}.self_attn.{name}" for i in (0, 1) for name in ATTENTION),
        *(f"language_model.layers.{i}.mlp.{name}_proj" for i in (0, 1) for name in ("gate", "up", "down")),
    ],
    "vision": [
        *(f"vision_tower.layers.{i}.attention.{name}" for i in (0, 1, 2, 3) for name in ATTENTION),
        *(f"vision_tower.layers.{i}.mlp.{name}" for i in (0, 1, 2, 3) for name in ("fc1", "fc2")),
        "compressor.linear_1",
        "compressor.linear_2",
    ],
    "temporal": [
        *(f"vision_tower.layers.{i}.temporal_attention.{name}" for i in (2, 3) for name in ATTENTION),
        *(f"vision_tower.layers.{i}.temporal_modulation.linear" for i in (2, 3)),
        *(f"vision_tower.step_embedding.{name}" for name in STEP_EMBEDDING),
        *(f"compressor.step_embedding.{name}" for name in STEP_EMBEDDING),
        "compressor.modulation.linear",
    ],
}
LINEAR["all"] = LINEAR["language"] + LINEAR["vision"] + LINEAR["temporal"]
GATES = [f"vision_tower.layers.{i}.temporal_gate" for i in (2, 3)]
NEW_PARTS = [
    *GATES,
    *(f"vision_tower.layers.{i}.temporal_{name}" for i in (2, 3) for name in ("norm", "modulation")),
    "vision_tower.step_embedding",
    "compressor",
]
TEXTS = ("qwen2", "llama")


def adapted(model, config):
    """Names of the Linear layers with LoRA, and of the modules trained whole, without `model.` before them."""
    peft_model = get_peft_model(model, config)
    modules = [name.removeprefix("base_model.model.model.") for name, _ in peft_model.named_modules()]
    linear = {name.removesuffix(".lora_A") for name in modules if name.endswith(".lora_A")}
    whole = {name.removesuffix(".modules_to_save") for name in modules if name.endswith(".modules_to_save")}
    return linear, whole


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("scope", LINEAR)
def test_scopes(scope, text):
    linear, whole = adapted(small_model(text_config={"model_type": text}), pvc_lora_config(scope))
    assert linear == set(LINEAR[scope])
    assert whole == (set(GATES) if scope in ("temporal", "all") else set())


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("scope", LINEAR)
def test_new_parts_are_trained_whole_and_get_no_lora(scope, text):
    linear, whole = adapted(small_model(text_config={"model_type": text}), pvc_lora_config(scope, new_parts=True))
    assert linear == {name for name in LINEAR[scope] if not name.startswith(tuple(NEW_PARTS))}
    assert whole == set(NEW_PARTS)


@pytest.mark.parametrize("text", TEXTS)
def test_all_scopes_together_are_every_linear_layer_but_the_head(text):
    linear, _ = adapted(small_model(text_config={"model_type": text}), LoraConfig(target_modules="all-linear"))
    assert linear == set(LINEAR["all"]) and len(linear) == sum(len(LINEAR[s]) for s in LINEAR if s != "all")


@pytest.mark.parametrize("text", TEXTS)
def test_no_target_modules_mean_queries_and_values_of_the_text_model(text):
    linear, whole = adapted(small_model(text_config={"model_type": text}), LoraConfig())
    assert linear == {f"language_model.layers.{i}.self_attn.{name}_proj" for i in (0, 1) for name in "qv"}
    assert not whole


def test_a_backbone_without_a_head_has_the_same_scopes():
    linear, _ = adapted(small_model().model, pvc_lora_config("all"))
    assert {name.removeprefix("base_model.model.") for name in linear} == set(LINEAR["all"])


def test_options():
    config = pvc_lora_config("temporal", r=4, modules_to_save=["lm_head"], use_dora=True)
    assert (config.r, config.lora_alpha, config.use_dora) == (4, 8, True)
    assert set(config.modules_to_save) == {"temporal_gate", "lm_head"}
    assert pvc_lora_config(lora_alpha=5).lora_alpha == 5
    with pytest.raises(ValueError, match="scope='everything' is unknown; use one of language, vision, temporal, all"):
        pvc_lora_config("everything")


def train_step(model):
    batch = batch_of([1, 2, 3])
    model(**batch, labels=batch["input_ids"]).loss.backward()


def test_zero_gates_open():
    """A fresh model's gates are zero, so that nothing behind them has a gradient before they have moved."""
    torch.manual_seed(0)
    model = get_peft_model(PVCForConditionalGeneration(small_config()), pvc_lora_config("temporal"))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    behind = [p for n, p in model.named_parameters() if "temporal_attention" in n and "lora_B" in n]
    train_step(model)
    assert all((p.grad == 0).all() for p in behind)
    optimizer.step()
    train_step(model)
    assert all(p.grad.abs().sum() > 0 for p in behind)


def test_every_new_part_learns():
    model = get_peft_model(small_model(), pvc_lora_config("all", new_parts=True))
    train_step(model)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, p in trainable.items() if "lora_A" not in name and not p.grad.abs().sum() > 0]


def test_the_first_stage_trains_what_pvc_adds():
    model = small_model()
    names = freeze_all_but_new_parts(model)
    parts = (*NEW_PARTS, *(f"vision_tower.layers.{i}.temporal_attention" for i in (2, 3)))
    assert names == [n for n, _ in model.named_parameters() if n.removeprefix("model.").startswith(parts)]
    assert names == [n for n, p in model.named_parameters() if p.requires_grad]
    with pytest.raises(ValueError, match="Linear has none of the parts that PVC adds"):
        freeze_all_but_new_parts(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("scope", ["vision", "temporal"])
def test_a_batch_that_touches_nothing_trained_is_skipped(scope):
    """AdamW would move its parameters by zeros for a gradient: they stay, to the last bit."""

    def train(kinds):
        model = make_model(scope)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for kind in kinds:
            loss_of(model, kind).backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.state_dict()

    trained, skipped = train(["video", "text", "text", "both"]), train(["video", "both"])
    assert all(torch.equal(trained[name], skipped[name]) for name in skipped)


def test_a_model_that_trains_nothing_still_raises():
    model = small_model().train().requires_grad_(False)
    with pytest.raises(RuntimeError, match="does not require grad"):
        loss_of(model, "text").backward()
