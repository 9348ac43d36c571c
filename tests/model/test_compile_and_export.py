"""No graph breaks, no recompilation for equal shapes, export. `aot_eager` traces like inductor, compiling nothing."""

import pytest
import torch
from batches import batch_of, grid
from conftest import small_model
from test_encoder import frames, make_encoder


DYNAMIC_SIZE = torch.export.Dim.DYNAMIC

LAYOUTS = {
    "tiles": lambda seed: {"pixel_values": frames(2, seed, torch.float32)},
    "ragged videos": lambda seed: {
        "pixel_values_videos": frames(5, seed, torch.float32),
        "video_grid_thw": grid(2, 3) if seed else grid(4, 1),
    },
    "mix": lambda seed: {
        "pixel_values": frames(2, seed, torch.float32),
        "pixel_values_videos": frames(3, seed, torch.float32)[None],
    },
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_the_encoder_compiles_whole_and_once(layout, chunk):
    encoder = make_encoder(torch.float32)
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    for seed in (0, 1):
        inputs = LAYOUTS[layout](seed)
        with torch._dynamo.config.patch(error_on_recompile=seed > 0):
            output = compiled(**inputs, frames_per_chunk=chunk).last_hidden_state
        torch.testing.assert_close(output, encoder(**inputs).last_hidden_state, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_whole_model_compiles():
    model = small_model()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    batch = batch_of([1, 3])
    torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits, atol=1e-5, rtol=1e-5)


def test_decoding_with_a_static_cache_compiles():
    model = small_model()
    batch = batch_of([1, 3])
    greedy = model.generate(**batch, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    model.forward = torch.compile(model.forward, fullgraph=True, backend="aot_eager")
    static = model.generate(
        **batch,
        max_new_tokens=6,
        min_new_tokens=6,
        do_sample=False,
        cache_implementation="static",
        disable_compile=True,
    )
    assert torch.equal(static, greedy)


@pytest.mark.parametrize("layout", ["tiles", "mix"])
@torch.no_grad()
def test_export_with_a_fixed_layout(layout):
    encoder = make_encoder(torch.float32)
    program = torch.export.export(encoder, (), LAYOUTS[layout](0))
    inputs = LAYOUTS[layout](1)
    expected = encoder(**inputs).last_hidden_state
    torch.testing.assert_close(program.module()(**inputs).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


DYNAMIC = {
    "tiles": (
        lambda count: {"pixel_values": frames(count, count, torch.float32)},
        {"pixel_values": {0: DYNAMIC_SIZE}},
    ),
    "frames of a video": (
        lambda count: {"pixel_values_videos": frames(count, count, torch.float32)[None]},
        {"pixel_values_videos": {1: DYNAMIC_SIZE}},
    ),
}


@pytest.mark.parametrize("layout", DYNAMIC)
@torch.no_grad()
def test_export_with_any_number(layout):
    """More than one of them, which every exporter takes for another program."""
    make, shapes = DYNAMIC[layout]
    encoder = make_encoder(torch.float32)
    program = torch.export.export(encoder, (), make(3), dynamic_shapes=shapes).module()
    for count in (2, 3, 7, 40):
        expected = encoder(**make(count)).last_hidden_state
        torch.testing.assert_close(program(**make(count)).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", DYNAMIC)
@torch.no_grad()
def test_onnx_with_any_number(layout, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    make, shapes = DYNAMIC[layout]
    encoder = make_encoder(torch.float32)
    path = tmp_path / "encoder.onnx"
    torch.onnx.export(encoder, (), path, kwargs=make(3), dynamic_shapes=shapes, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (given.name for given in session.get_inputs())
    for count in (2, 3, 7, 40):
        (value,) = make(count).values()
        output = torch.from_numpy(session.run(None, {name: value.numpy()})[0])
        torch.testing.assert_close(output, encoder(**make(count)).last_hidden_state, atol=1e-4, rtol=1e-4)
