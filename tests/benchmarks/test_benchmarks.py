"""Every suite of benchmarks/ runs at the tiny shape, and what it compares is comparable. Nothing timed is asserted."""

import json
from functools import partial

import numpy as np
import pytest
import run
import torch
from costs import cache_bytes, counted_flops, measured_cache_bytes, text_flops
from families import FAMILIES, Family, InternVL, build, raw_frames
from harness import ATTENTION_FLOPS, Bench, Case, Spec
from limits import Limits
from shapes import SHAPES
from suites import decode, encode, prefill, preprocess, scale, stream, train
from suites.stream import ask_again
from tables import replace_section, write_section

from modeling_pvc import PVCStream, preset_processor


CPU = torch.device("cpu")
TINY = SHAPES["tiny"]
# Tokens of 4 frames as the families' papers and processors count them: 64, 256, 196 (and a newline), 256 per two, 64
TOKENS = {"PVC": 256, "InternVL-HF": 1024, "LLaVA-OneVision": 785, "Qwen2.5-VL": 512, "SmolVLM": 256}


@pytest.fixture(scope="module")
def models():
    """All families at the tiny shape, around PVC's text weights."""
    families = [family(TINY) for family in FAMILIES]
    first = build(families[0], CPU, torch.float32)
    return [(families[0], first), *((family, build(family, CPU, torch.float32, first)) for family in families[1:])]


@pytest.fixture
def docs(tmp_path):
    path = tmp_path / "benchmarks.md"
    path.write_text("Before\n\n<!-- encode:tiny:cpu -->\nold\n<!-- end encode:tiny:cpu -->\n\nAfter\n")
    return path


def short_bench(repeats=1):
    return Bench(CPU, torch.float32, Limits(1e12, 1e12), budget=3600.0, repeats=repeats)


def settings(config):
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    return {name: getattr(config, name) for name in (*names, "vocab_size", "rms_norm_eps", "tie_word_embeddings")}


def test_all_families_have_the_same_text_model_and_attention(models):
    ours = models[0][1]
    reference = dict(ours.get_decoder().named_parameters())
    for _, model in models:
        text = model.config.get_text_config()
        assert settings(text) == settings(ours.config.text_config)
        assert model.lm_head.weight.data_ptr() == ours.lm_head.weight.data_ptr()
        for name, parameter in model.get_decoder().named_parameters():
            assert parameter.data_ptr() == reference[name].data_ptr(), name
        parts = [
            module for module in model.modules() if hasattr(getattr(module, "config", None), "_attn_implementation")
        ]
        assert {part.config._attn_implementation for part in parts} == {"sdpa"}


@pytest.mark.parametrize("shape", SHAPES)
def test_families_take_the_same_text_config_and_their_own_tokens(shape):
    for family in FAMILIES:
        family = family(SHAPES[shape])
        expected = settings(family.pvc.text_config)
        assert settings(family.config().get_text_config()) == expected
        if family.name != "SmolVLM" or shape != "8b":  # whose 2.2B tower has 81 tokens per frame
            assert family.visual_tokens(4) == TOKENS[family.name]


@torch.no_grad()
def test_visual_tokens_and_caches_are_what_the_configs_say(models):
    frames = raw_frames(4, CPU)
    for family, model in models:
        inputs = family.inputs(frames, torch.float32)
        visual = (inputs["input_ids"] == family.placeholder).sum()
        features = family.features(model, family.media(family.resize(frames)))
        assert features.numel() == TOKENS[family.name] * model.config.get_text_config().hidden_size
        assert visual == TOKENS[family.name]
        cache = model(**inputs, use_cache=True, logits_to_keep=1).past_key_values
        length = inputs["input_ids"].shape[1]
        assert measured_cache_bytes(cache) == cache_bytes(model.config.get_text_config(), length, torch.float32)


def test_families_see_the_same_frames():
    frames = raw_frames(4, CPU)
    ours, theirs = Family(TINY), InternVL(TINY)
    video, tiles = ours.inputs(frames, torch.float32), theirs.inputs(frames, torch.float32)
    torch.testing.assert_close(video["pixel_values_videos"], tiles["pixel_values"], rtol=0, atol=0)
    for family in FAMILIES:  # the mean survives resizing: the same pictures, whatever the size
        pixels = family(TINY).inputs(frames, torch.float32)
        values = pixels.get("pixel_values", pixels.get("pixel_values_videos"))
        assert values.numel() == 4 * 3 * family(TINY).frame_size ** 2
        assert values.mean().item() == pytest.approx(video["pixel_values_videos"].mean().item(), abs=1e-3)


@torch.no_grad()
def test_costs_of_the_text_model_are_those_that_torch_counts(models):
    model = models[0][1]
    ids = torch.full((1, 40), 97)
    counted = counted_flops(lambda: model(input_ids=ids, logits_to_keep=1))
    assert counted == text_flops(model.config.text_config, 40)


@torch.no_grad()
def test_a_stream_and_encoding_everything_again_answer_alike(models):
    """What the suite `stream` compares is the same prompt about the same frames."""
    model, processor = models[0][1], preset_processor(models[0][0].pvc)
    pictures = raw_frames(3, CPU).permute(0, 2, 3, 1).numpy()
    again = ask_again(model, processor, pictures, short_bench())
    streamed = PVCStream(model, processor)
    streamed.append(pictures)
    question = streamed._tokenize([streamed._before_question + stream.QUESTION + streamed._after_question])
    prompt = torch.cat([streamed._ids, question["input_ids"]], dim=1)
    assert torch.equal(again[:, :-1], prompt)
    answer = streamed.ask(stream.QUESTION, max_new_tokens=1)
    assert answer == processor.decode(again[0, -1:], skip_special_tokens=True)


SUITES = {
    "encode": (encode, {"TILES": (1,), "FRAMES": (2,)}, "AdaLN"),
    "prefill": (prefill, {"FRAMES": (2,)}, "KV cache"),
    "decode": (decode, {"FRAMES": (1,), "COMPILED_FAMILIES": 1}, "tokens/s"),
    "stream": (stream, {"FRAMES": (2,)}, "a further frame after 2"),
    "train": (train, {"FRAMES": (2,)}, "frozen by hand"),
    "scale": (scale, {"BATCHES": (2,), "FRAMES": (2,)}, "efficiency"),
}


@pytest.mark.parametrize("name", SUITES)
def test_suites_run(name, monkeypatch):
    module, constants, expected = SUITES[name]
    for constant, value in constants.items():
        monkeypatch.setattr(module, constant, value)
    if name == "decode":  # plumbing: traces, compiles nothing
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    bench = short_bench()
    tables = module.run(bench, TINY)
    assert expected in tables and "nan" not in tables
    assert all(row.results and not row.skipped for row in bench.rows)
    assert all(result.flops > 0 and np.isfinite(result.ratio) for row in bench.rows for result in row.results)


def test_preprocessing_is_measured_by_its_own_script(tmp_path, monkeypatch):
    script = tmp_path / "preprocess.py"
    script.write_text("import sys\nprint('| table |', sys.argv[1:])")
    monkeypatch.setattr(preprocess, "SCRIPT", script)
    assert preprocess.run(short_bench(repeats=2), TINY) == "| table | ['--repeats', '2']"


def test_the_command_writes_json_and_docs(tmp_path, docs, monkeypatch):
    monkeypatch.setattr(encode, "run", lambda bench, shape: one_row(bench))
    monkeypatch.setattr(run, "matrix_rate", lambda *_: 1e9)
    monkeypatch.setattr(run, "copy_rate", lambda *_: 1e9)
    arguments = ["--shape", "tiny", "--device", "cpu", "--dtype", "float32", "--repeats", "2", "--docs", str(docs)]
    run.main(["encode", *arguments, "--json", str(tmp_path / "out.json")])
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["threads"] == torch.get_num_threads() and report["torch"] == torch.__version__
    assert [len(result["seconds"]) for result in report["results"]] == [2, 2]
    assert report["complete"] and report["tables"] == "table" and report["head"] in docs.read_text()
    assert list(report["skipped"]) == ["too much"] and "not run: estimated" in report["skipped"]["too much"]
    text = docs.read_text()
    assert text.startswith("Before\n\n<!-- encode:tiny:cpu -->\n`python benchmarks/run.py encode --shape tiny")
    assert "old" not in text and text.endswith("<!-- end encode:tiny:cpu -->\n\nAfter\n")
    assert list(tmp_path.glob("*.unfinished")) == []


def one_row(bench):
    x = torch.ones(8, 8)
    cases = [Case(name, lambda: x @ x, 1.0, held=[x]) for name in ("a", "b")]
    rows = bench.compare_all([Spec("too much", [(1e18, 0)], list), Spec("small", [(1.0, 0)], lambda: cases)])
    assert [row.label for row in rows] == ["too much", "small"]
    assert [result.flops for result in rows[1].results] == [1024, 1024]  # 2 * 8 ** 3
    return "table"


def test_attention_with_fewer_keys_than_queries_is_counted():
    """Products of queries and keys, and of weights and values; twice that and a half, backwards."""
    query, key = (1, 8, 4, 16), (1, 2, 6, 16)
    forward, backward = (
        ATTENTION_FLOPS[getattr(torch.ops.aten, f"_scaled_dot_product_flash_attention{name}")]
        for name in ("", "_backward")
    )
    assert forward(query, key, key) == 2 * (2 * 8 * 4 * 6 * 16)
    assert backward(query, query, key, key) == 5 * (2 * 8 * 4 * 6 * 16)


def test_rows_are_noted_as_they_come_the_cheapest_alone_if_so_asked():
    noted = []
    bench = Bench(
        CPU, torch.float32, Limits(1e12, 1e12), 3600.0, 1, 2, lambda rows: noted.append([r.label for r in rows])
    )
    cases = [Case("a", lambda: torch.ones(2), 1.0)]
    rows = bench.compare_all(
        [Spec(label, [(cost, 0)], lambda: cases) for label, cost in (("c", 3), ("a", 1), ("b", 2))]
    )
    assert noted == [["a"], ["a", "b"]]
    assert [row.label for row in rows] == ["a", "b"]


def test_contestants_take_turns():
    calls = []
    cases = [Case(name, partial(calls.append, name), 1.0) for name in "ABC"]
    short_bench(repeats=2).compare(Spec("row", [(1.0, 0)], lambda: cases))
    assert "".join(calls) == "ABC" * 3  # the warm-up, and two rounds


def test_sections_are_replaced_again_and_again(docs):
    once = replace_section(docs.read_text(), "encode:tiny:cpu", "new\n")
    assert replace_section(once, "encode:tiny:cpu", "new") == once
    assert once == docs.read_text().replace("old", "new")
    with pytest.raises(ValueError, match="no place for 'decode:1b:cpu'"):
        write_section(docs, "decode:1b:cpu", "new")


def test_the_docs_have_a_place_for_every_table():
    text = run.DOCS.read_text()
    places = [
        f"{suite}:{shape}:{device}" for suite in run.SUITES for shape in ("1b", "8b") for device in ("cpu", "cuda")
    ]
    for place in places:
        if place.startswith("preprocess") and place != "preprocess:1b:cpu":
            continue  # the same for every shape and device
        assert replace_section(text, place, "new") != text
