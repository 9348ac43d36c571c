# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""The evidence's scripts: what the variants share, what they lack, and what becomes of the results."""

import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pytest
import torch


pytest.importorskip("font_roboto", reason="pip install '.[tiny]'")

import checkpoint
import conversion_start
import data
import learning
import measure
import paths
import report
import shown_steps
from experiments import EXPERIMENTS, FOUR_STEPS, INTERNVL, ONE_STEP, Conversion
from learning import score, train
from pools import elastic_batch, held_out_questions, pool, to_batch, training_question
from variants import NEW, Variant, build

from modeling_pvc import PVCConfig, PVCForConditionalGeneration
from modeling_pvc.modeling_pvc import merge_patches


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pools")


@pytest.fixture(scope="module")
def config():
    return PVCConfig.from_pretrained(paths.START)


def test_pools_are_made_once_and_kept(folder, monkeypatch):
    rows = pool(folder, "detail", "test", 1, 6, jobs=1)
    assert len(rows) == 6 and all(row["frames"].dtype == torch.uint8 for row in rows)
    monkeypatch.setattr("pools.Encoder", None)
    again = pool(folder, "detail", "test", 1, 6, jobs=1)
    assert all(torch.equal(row[name], other[name]) for row, other in zip(rows, again) for name in row)


@pytest.mark.parametrize("task", ["detail", "tiles", "pictures", "clips", "few-frames"])
def test_questions_are_determined_by_seed_and_index(task):
    texts = [str(training_question(task, 0, index)[-1]) for index in (3, 3, 4)]
    assert texts[0] == texts[1] and len(set(texts)) == 2
    assert len(held_out_questions(task, 1, 7)) >= 7


def test_every_fourth_frame(folder):
    all_frames, few = (pool(folder, task, "test", 1, 7, jobs=1) for task in ("clips", "few-frames"))
    assert [len(row["frames"]) for row in few] == [-(-len(row["frames"]) // 4) for row in all_frames]


def test_four_tiles_show_the_same_pictures(folder):
    one, four = (pool(folder, task, "test", 1, 6, jobs=1) for task in ("detail", "tiles"))
    assert [len(row["frames"]) for row in four] == [4] * 6
    for row, other in zip(one, four):
        assert len(other["input_ids"]) - len(row["input_ids"]) == 3 * 4
        assert torch.equal(row["labels"][row["labels"] != -100], other["labels"][other["labels"] != -100])


def test_variants_differ_in_placeholders_alone(folder, config):
    rows = pool(folder, "clips", "test", 1, 7, jobs=1)
    one, four = (to_batch(rows, config, factor) for factor in (1, 4))
    visual = config.video_token_id
    assert torch.equal(one["pixel_values_videos"], four["pixel_values_videos"])
    assert [(ids == visual).sum() * 4 for ids in one["input_ids"]] == [
        (ids == visual).sum() for ids in four["input_ids"]
    ]
    for a, b in zip(one["input_ids"], four["input_ids"]):
        assert torch.equal(a[(a != visual) & (a != 0)], b[(b != visual) & (b != 0)])
    assert (one["labels"] != -100).sum() == (four["labels"] != -100).sum()


ALL = [v for e in EXPERIMENTS.values() for v in e.variants]


@pytest.mark.parametrize("variant", [v for v in ALL if v.repeats in (1, 4)], ids=lambda v: v.name)
def test_what_is_switched_off_stays_off(variant, folder, config, monkeypatch):
    monkeypatch.setattr(learning, "BATCH_SIZE", 8)  # there are 7 rows
    task = "clips" if variant.name in {v.name for v in EXPERIMENTS["clips"].variants} else "detail"
    rows = pool(folder, task, "test", 1, 7, jobs=1)
    model = build(variant, paths.START, seed=0)
    start = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert model.config.tokens_per_step == variant.tokens_per_step
    collate = partial(to_batch, config=model.config, factor=variant.factor(task == "clips"))
    # bfloat16, which the evidence is trained in, once: without AMX or AVX-512 it is ten times slower
    dtype = torch.bfloat16 if variant.name == "identity, 1 step" else torch.float32
    train(model, [rows], collate, steps=2, seed=0, dtype=dtype)
    for name, parameter in model.named_parameters():
        changed = not torch.equal(parameter, start[name])
        # the encoder's in front of temporal attention gets no gradient where its gate is shut
        if "compressor.modulation" in name or ("modulation" in name and "layernorm" in name):
            assert changed == variant.adaln, name
        if "temporal_gate" in name:
            assert changed == variant.temporal and bool(parameter.any()) == variant.temporal, name
    assert 0 <= score(model, rows, collate)["answers"] <= 1


def test_adaln_everywhere_begins_as_the_identity():
    frames = torch.randint(0, 256, (17, 3, 64, 64), dtype=torch.uint8)  # 68 steps, more than a chunk has
    everywhere = next(variant for variant in ALL if variant.adaln_everywhere)
    with torch.no_grad():
        first, second = (
            build(variant, paths.START, seed=0).eval().model.encode(pixel_values=frames)[0]
            for variant in (everywhere, FOUR_STEPS)
        )
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def test_all_variants_start_from_the_same_weights():
    first, second = (build(variant, paths.START, seed=0).state_dict() for variant in (FOUR_STEPS, ONE_STEP))
    kept = [name for name in first if not any(new in name for new in NEW)]
    assert len(kept) > 50 and all(torch.equal(first[name], second[name]) for name in kept)


def test_gradients_of_a_batch_do_not_depend_on_the_passes(folder, monkeypatch):
    """To float32's precision; one plain step, so that the weights' change is the gradient."""
    rows = pool(folder, "clips", "test", 1, 7, jobs=1)
    monkeypatch.setattr(learning, "BATCH_SIZE", 8)
    weights = []
    for at_a_time in (8, 2):
        model = build(FOUR_STEPS, paths.START, seed=0)
        start = [parameter.clone() for parameter in model.parameters()]
        collate = partial(to_batch, config=model.config, factor=1)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        train(model, [rows], collate, 2, 0, sgd, at_a_time, dtype=torch.float32)
        weights.append(torch.cat([(p - before).flatten() for p, before in zip(model.parameters(), start)]))
    assert (weights[0] - weights[1]).norm() < 1e-4 * weights[0].norm()


def test_a_measured_row_replaces_the_earlier_one(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    for seed, value in ((0, 0.1), (1, 0.2), (0, 0.3)):
        measure.store("repeats", {"variant": "a", "seed": seed, "answers": value})
    rows = json.loads((tmp_path / "repeats.json").read_text())["rows"]
    assert [(row["seed"], row["answers"]) for row in rows] == [(1, 0.2), (0, 0.3)]


def test_the_untrained_start_is_lossless(folder, config):
    """InternVL and its conversion give the same logits on pictures, so the evidence compares what it says."""
    rows = pool(folder, "pictures", "test", 1, 9, jobs=1)
    source = conversion_start.internvl(seed=0).eval()
    model = conversion_start.converted(source)
    with torch.no_grad():
        expected = source(**conversion_start.internvl_batch(rows, config)).logits
        got = model(**conversion_start.pvc_batch(rows, model.config)).logits
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_the_mean_of_sub_blocks():
    source = conversion_start.internvl(seed=0)
    compressor = conversion_start.converted(source, mean=True).model.compressor
    patches = torch.randn(1, 1 + compressor.grid_size**2, source.config.vision_config.hidden_size).expand(5, -1, -1)
    with torch.no_grad():
        tokens = compressor(patches, torch.arange(5), torch.arange(5))
        grid = patches[:1, 1:].unflatten(1, (compressor.grid_size, compressor.grid_size))
        four = merge_patches(compressor.layer_norm(merge_patches(grid, 2)), 2).flatten(1, 2).chunk(4, dim=-1)
        projector = source.model.multi_modal_projector
        expected = projector.linear_2(projector.act(projector.linear_1(sum(four) / 4)))
    torch.testing.assert_close(tokens, expected.expand_as(tokens), atol=1e-5, rtol=0)


def test_a_conversion_is_measured_on_pictures_and_clips(folder, monkeypatch):
    monkeypatch.setattr(learning, "BATCH_SIZE", 2)
    monkeypatch.setattr(conversion_start, "training_pool", lambda _, task, steps: pool(folder, task, "test", 1, 9, 1))
    options = SimpleNamespace(cache=folder, steps=2, questions=9)
    source = conversion_start.measure_source(0, options)
    kept = (folder / "internvl-0-2" / "model.safetensors").stat().st_mtime_ns
    row = conversion_start.measure_converted(Conversion(lora_steps=2, rank=4), 0, options)
    assert (folder / "internvl-0-2" / "model.safetensors").stat().st_mtime_ns == kept
    assert (row["lora_steps"], row["rank"], source["variant"]) == (2, 4, INTERNVL)
    for task in conversion_start.TASKS:
        assert len(source[f"{task}_right"]) == len(row[f"{task}_right"]) >= 9
    assert "±" in report.difference([row], [source], "clips_right")


def test_an_error_does_not_wait_for_jobs_that_have_not_begun():
    with ThreadPoolExecutor(1) as workers:
        jobs = [workers.submit(action) for action in (lambda: 1, lambda: 1 / 0, *[partial(time.sleep, 0.2)] * 5)]
        with pytest.raises(ZeroDivisionError):
            list(measure.finished(jobs))
    assert jobs[-1].cancelled()


@pytest.mark.parametrize("script", ["measure", "conversion_start", "checkpoint", "shown_steps"])
def test_scripts_start_from_any_folder(script, tmp_path):
    command = [sys.executable, paths.ROOT / "benchmarks" / "evidence" / f"{script}.py", "--help"]
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(command, cwd=tmp_path, env=plain, capture_output=True, text=True)
    assert ran.returncode == 0 and "--questions" in ran.stdout, ran.stderr


def test_no_questions_have_no_share(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["checkpoint", "--questions", "0"])
    with pytest.raises(SystemExit):
        checkpoint.main()
    assert "argument --questions: 0 is less than one." in capsys.readouterr().err


def rows_of(variant, *right):
    return [{"variant": variant, "seed": seed, "right": answers, "answers": 0.5} for seed, answers in enumerate(right)]


def test_differences_are_paired_by_question_and_seed():
    better, worse = rows_of("a", "1101", "1111"), rows_of("b", "0101", "1110")
    # 1 of 4 in either seed; by question 0.5, 0, 0, 0.5: variance 1/12, over 4 questions; the seeds do not differ
    assert report.difference(better, worse) == f"+25.0 ± {196 * (1 / 48) ** 0.5:.1f}"
    assert report.difference(better[:1], worse[1:]) == ""
    lines = report.paired_table(better + worse, {"more than b": lambda name: "b"}, better + worse).splitlines()
    assert "+25.0" in lines[2] and lines[3].split("|")[3].strip() == "" and lines[2].endswith("| 0, 1 |")


def test_the_checkpoint_is_asked_at_each_number(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "NUMBERS", (1, 4))
    monkeypatch.setattr("sys.argv", ["checkpoint", "--questions", "3", "--results", str(tmp_path)])
    checkpoint.main()
    rows = json.loads((tmp_path / "checkpoint.json").read_text())["rows"]
    names = ["a picture, steps, 1", "a picture, steps, 4", "a page, steps, 1", "a page, steps, 4"]
    names += ["a dense page, steps, 1", "a dense page, steps, 4", "a mosaic, steps, 1", "a mosaic, steps, 4"]
    names += ["a split mosaic, steps, 1", "a split mosaic, steps, 4"]
    names += ["a still clip, frames, 1", "a still clip, frames, 4"]
    assert [row["variant"] for row in rows] == names
    assert all(len(row["right"]) == 3 and row["answers"] == row["right"].count("1") / 3 for row in rows)
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    header, _, picture, more, *_ = report.numbers_table("checkpoint").splitlines()
    assert [cell.strip() for cell in header.split("|")[2:-1]] == ["1", "4"]
    assert picture.startswith("| a picture, steps |") and " ± " in more.split("|")[3]


def test_pages_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "NUMBERS", (1,))
    arguments = ["--only", "a page, steps", "--questions", "10", "--results", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["checkpoint", *arguments])
    checkpoint.main()
    [row] = json.loads((tmp_path / "checkpoint.json").read_text())["rows"]
    assert row["right"].count("1") >= 7  # of 500 it reads nine of ten


def test_showing_the_first_steps_is_asking_for_as_many():
    model = PVCForConditionalGeneration.from_pretrained(paths.CHECKPOINT).eval()
    tiles = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    two, four = (model.model.encode(pixel_values=tiles, image_steps=torch.tensor([n, n])) for n in (2, 4))
    shown_steps.show_only(model, (0, 1))
    tokens, outputs = model.model.encode(pixel_values=tiles, image_steps=torch.tensor([2, 2]))
    torch.testing.assert_close(tokens, two[0])
    torch.testing.assert_close(outputs.last_hidden_state, two[1].last_hidden_state)
    shown_steps.show_only(model, (1, 3))
    tokens, _ = model.model.encode(pixel_values=tiles)
    torch.testing.assert_close(tokens, four[0][[1, 3, 5, 7]])


def test_each_choice_of_steps_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(shown_steps, "CHOICES", ((0,), (0, 1)))
    monkeypatch.setattr("sys.argv", ["shown_steps", "--questions", "3", "--results", str(tmp_path)])
    shown_steps.main()
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    *_, first, both = report.shown_table().splitlines()
    assert first.startswith("| 0 |") and both.startswith("| 0 1 |") and both.count(" ± ") == 3


def test_another_seed_makes_fresh_pictures(tmp_path, monkeypatch):
    given = ["--only", "a mosaic, steps", "--numbers", "2", "--seed", "7", "--questions", "2"]
    monkeypatch.setattr("sys.argv", ["checkpoint", *given, "--results", str(tmp_path)])
    truths = []
    monkeypatch.setattr(checkpoint, "answers", lambda model, processor, asked: truths.append(asked) or ["", ""])
    checkpoint.main()
    [row] = json.loads((tmp_path / "checkpoint.json").read_text())["rows"]
    assert (row["variant"], row["right"], row["questions_seed"]) == ("a mosaic, steps, 2", "00", 7)
    image = truths[0][0][0]["content"][0]["image"]
    assert image.tobytes() == data.make_sample("mosaic", "test", 7, 0).media.tobytes()
    assert image.tobytes() != data.make_sample("mosaic", "test", checkpoint.SEED, 0).media.tobytes()


@pytest.mark.parametrize("other", [[str(paths.START)], ["--seed", "7"]], ids=["checkpoint", "seed"])
def test_other_questions_do_not_replace_the_repositorys_numbers(other, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["checkpoint", *other])
    with pytest.raises(SystemExit):
        checkpoint.main()
    assert "give --results FOLDER" in capsys.readouterr().err


def test_a_folder_without_a_checkpoint_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["checkpoint", "nowhere", "--results", str(tmp_path)])
    with pytest.raises(SystemExit):
        checkpoint.main()
    assert "nowhere is no checkpoint folder." in capsys.readouterr().err


def test_the_table_of_an_interrupted_run(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    for variant in ("a picture, steps, 1", "a picture, steps, 4", "a still clip, frames, 1"):
        measure.store("checkpoint", {"variant": variant, "seed": 0, "answers": 0.5, "right": "10"}, tmp_path)
    assert report.numbers_table("checkpoint").splitlines()[4] == "| a still clip, frames | 50.0% |  |"
    for shown in ("0", "0 1"):
        measure.store("shown", {"variant": f"a picture, {shown}", "seed": 0, "answers": 0.5, "right": "10"}, tmp_path)
    assert report.shown_table().splitlines()[3] == "| 0 1 | 50.0% | +0.0 ± 0.0 |  |  |  |  |"


def test_more_steps_and_frames_are_what_a_checkpoint_is_asked_with():
    for name, show in checkpoint.SHOWN.items():
        blocks = [show(1, 5, number)[0]["content"][0] for number in (1, 8)]
        option = "num_frames" if name.endswith("frames") else "image_steps"
        assert [block[option] for block in blocks] == [1, 8]
    lengths = {name: len(show(1, 5, 1)[1]["content"][0]["text"]) for name, show in checkpoint.SHOWN.items()}
    assert list(lengths.values()) == [9, 16, 25, 64, 128, 9]
    assert [len(checkpoint.still_clip(1, 5, number)[0]["content"][0]["video"]) for number in (1, 8)] == [1, 8]


def test_report(tmp_path, monkeypatch):
    page = tmp_path / "evidence.md"
    page.write_text((report.DOCS / "evidence.md").read_text())
    monkeypatch.setattr(report, "DOCS", tmp_path)
    monkeypatch.setattr(report, "FIGURE", tmp_path / "figure.png")
    report.main()
    assert page.read_text() == (paths.ROOT / "docs" / "evidence.md").read_text(), "run benchmarks/evidence/report.py"
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "suffixes"),
    [
        ("elastic", ["1 step", "2 steps", "4 steps", "8 steps"]),
        ("still", [f"still-{n}" for n in (1, 2, 4, 8, 16)]),
        ("change", [f"held-{n}" for n in (1, 2, 4)]),
    ],
)
def test_one_model_is_scored_at_each_number(name, suffixes, folder, monkeypatch):
    monkeypatch.setattr(learning, "BATCH_SIZE", 4)
    monkeypatch.setattr(measure, "BATCH_SIZE", 4)
    options = SimpleNamespace(cache=folder, questions=4, device="cpu")
    variant, experiment = EXPERIMENTS[name].variants[0], EXPERIMENTS[name]
    rows = measure.measure(variant, experiment.task, experiment.scored_for(experiment.task), 0, 2, options)
    assert [row["variant"] for row in rows] == [f"{variant.name}, {suffix}" for suffix in suffixes]
    assert all(len(row["right"]) == 4 for row in rows)


def test_a_still_clip_shows_the_picture_of_the_same_question(folder):
    for task, count in (("still-1", 1), ("still-8", 8)):
        for still, picture in zip(pool(folder, task, "test", 1, 4, 1), pool(folder, "detail", "test", 1, 6, 1)):
            assert torch.equal(still["frames"], picture["frames"].expand(count, -1, -1, -1))


def test_a_changing_clip_ends_with_the_picture_of_the_same_question(folder):
    """Each picture stays as long; the earlier ones are others, and never the same twice."""
    for held in (1, 2, 4):
        changing = pool(folder, f"held-{held}", "test", 1, 4, 1)
        for clip, picture in zip(changing, pool(folder, "detail", "test", 1, 6, 1)):
            frames = clip["frames"]
            assert len(frames) == 4 and torch.equal(frames[-1:], picture["frames"])
            shown = [frames[i : i + held] for i in range(0, 4, held)]
            assert all(torch.equal(part, part[:1].expand_as(part)) for part in shown)
            assert len({part.numpy().tobytes() for part in shown}) == 4 // held
            assert torch.equal(clip["labels"][clip["labels"] != -100], picture["labels"][picture["labels"] != -100])


def test_elastic_batches_draw_steps_for_each_picture(folder, config):
    rows = pool(folder, "detail", "test", 1, 6, jobs=1)
    batch = elastic_batch(rows, config, (1, 8), random.Random(0))
    tokens = (batch["input_ids"] == config.image_token_id).sum(1)
    assert set(batch["image_steps"].tolist()) == {1, 8}
    assert torch.equal(tokens, 4 * batch["image_steps"])


def test_differences_are_paired():
    def rows(*answers):
        return [{"seed": seed, "right": right} for seed, right in enumerate(answers)]

    # per question 1, 0, 0, 1: mean 0.5, variance 1/3; one seed
    assert report.difference(rows("1101"), rows("0100")) == f"+50.0 ± {196 * (1 / 3 / 4) ** 0.5:.1f}"
    # seeds of +0.5 and 0; per question 0.5, 0, 0, 0.5: variance 1/12, and that of the seeds 1/8
    assert (
        report.difference(rows("1101", "11" * 2), rows("0100", "1111"))
        == f"+25.0 ± {196 * (1 / 48 + 1 / 16) ** 0.5:.1f}"
    )


def test_names_of_variants_are_unique():
    names = [variant.name for experiment in EXPERIMENTS.values() for variant in experiment.variants]
    assert len(set(names)) == len(names)
    assert Variant("x", tokens_per_step=16, repeats=4).factor(is_clip=False) == 16
