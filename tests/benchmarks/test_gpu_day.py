"""The GPU day, rehearsed: every part at the tiny shape on a CPU, the tables, and what happens when a part fails."""

import argparse
import json
import re
import time
from pathlib import Path

import gpu_day
import gpu_tables
import launches
import pytest
import torch
from families import Family
from gpu_day import Part
from shapes import SHAPES
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForImageTextToText
from transformers.initialization import no_init_weights


ROOT = Path(__file__).parents[2]


def part(name, code, seconds=600):
    return Part(name, seconds, name, lambda options, limit: ["-c", code])


def run_day(folder, *arguments):
    return gpu_day.main(["--out", str(folder), "--shape", "tiny", "--device", "cpu", *arguments])


def statuses(folder):
    day = json.loads((folder / "day.json").read_text())
    return {name: result["status"] for name, result in day["parts"].items()}


@pytest.fixture
def docs(tmp_path):
    """The real file, with places for a rehearsal instead of those for a GPU."""
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    path = tmp_path / "benchmarks.md"
    path.write_text(text.replace(":8b:cuda", ":tiny:cpu").replace(":cuda", ":cpu"))
    return path


def section(docs, marker):
    return re.search(f"<!-- {marker} -->\n(.*?)\n<!-- end {marker} -->", docs.read_text(), re.DOTALL)[1]


@pytest.mark.slow
@pytest.mark.rehearsal
@pytest.mark.timeout(1800)
def test_the_whole_day_runs_and_fills_its_tables(tmp_path, docs, capfd):
    folder = tmp_path / "day"
    code = run_day(folder, "--minutes", "30")
    printed = capfd.readouterr().out
    assert code == 0, printed + "".join(file.read_text()[-2000:] for file in sorted(folder.glob("*.log")))
    parts = gpu_day.parts_of("tiny")
    assert statuses(folder) == {part.name: "done" for part in parts}
    gpu_tables.main([str(folder), "--docs", str(docs)])
    for part in parts:
        body = section(docs, f"{part.fills}:cpu")
        assert "Not yet" not in body and body.strip() and "nan" not in body, part.name
        if part.name not in ("tests", "training", "evidence"):
            assert re.search(r"\| [^|]+ \|.* \d", body), part.name
    assert " passed" in section(docs, "tests:cpu") and "failed" not in section(docs, "tests:cpu")
    assert section(docs, "day:cpu").count("| done |") == len(parts)
    assert (folder / "pvc-tiny" / "model.safetensors").exists()
    assert len(json.loads((folder / "evidence" / "starts.json").read_text())["rows"]) == 1


def test_a_part_that_fails_or_hangs_stops_no_other(tmp_path, monkeypatch):
    """It is reported, with what it had measured, and so is what it started; the next run goes on with it."""
    hang = "import subprocess, sys, time; print('begun', flush=True); subprocess.run([sys.executable, '-c', {!r}])"
    child = f"import time; time.sleep(6); open({str(tmp_path / 'survived')!r}, 'w')"
    rows = json.dumps({"head": "half", "tables": "| a |"})
    report = f"open({str(tmp_path / 'half.json')!r}, 'w').write({rows!r}); raise SystemExit(3)"
    parts = [
        part("fails", "raise SystemExit(2)"),
        part("hangs", hang.format(child), seconds=3),
        part("half", report),
        part("good", "print('fine')"),
    ]
    monkeypatch.setattr(gpu_day, "LEAST_SECONDS", 0)
    monkeypatch.setattr(gpu_day, "parts_of", lambda shape: parts)
    assert run_day(tmp_path) == 1
    expected = {"fails": "failed with 2", "hangs": "ran out of time", "half": "failed with 3", "good": "done"}
    assert statuses(tmp_path) == expected
    day = json.loads((tmp_path / "day.json").read_text())
    assert day["parts"]["hangs"]["printed"] == "begun\n"
    assert day["parts"]["half"]["report"] == json.loads(rows)
    time.sleep(4)
    assert not (tmp_path / "survived").exists()  # the part's own processes ended with it

    monkeypatch.setattr(gpu_day, "parts_of", lambda shape: [part("fails", "print('now')"), part("good", "exit(1)")])
    run_day(tmp_path)
    assert statuses(tmp_path) == {**expected, "fails": "done"}  # what was done is not run again


def test_parts_need_no_installed_package(tmp_path, monkeypatch):
    """Carried wheels stay in front of what the machine has, the repository in front of both."""
    monkeypatch.setenv("PYTHONPATH", "/carried")
    monkeypatch.setattr(gpu_day, "parts_of", lambda shape: [part("paths", "import sys; print(*sys.path[1:3])")])
    assert run_day(tmp_path) == 0
    assert (tmp_path / "paths.log").read_text() == f"{ROOT} /carried\n"


def test_parts_without_time_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_day, "parts_of", lambda shape: [part("good", "print('fine')")])
    assert run_day(tmp_path, "--minutes", "0") == 1
    assert statuses(tmp_path) == {"good": "no time left"}
    assert run_day(tmp_path) == 0  # and are run the next time


def test_another_day_s_folder_is_refused(tmp_path):
    (tmp_path / "day.json").write_text(json.dumps({"shape": "8b", "device": "cuda", "parts": {}}))
    with pytest.raises(ValueError, match="has results of"):
        run_day(tmp_path)


def test_what_a_part_shows_says_how_it_ended():
    partial = {"status": "ran out of time", "seconds": 7, "report": {"head": "On a GPU.", "tables": "| a |"}}
    assert gpu_tables.body("encode-8b", partial) == (
        "The part 'encode-8b' ran out of time after 7 s.\n\nOn a GPU.\n\n| a |"
    )
    assert gpu_tables.body("tests", {"status": "done", "seconds": 1, "printed": "3 passed"}) == "```\n3 passed\n```"
    silent = {"status": "failed with 1", "seconds": 1, "printed": ""}
    assert gpu_tables.body("tests", silent).endswith("Nothing was printed.")


def test_the_docs_have_a_place_for_every_part():
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    for part in gpu_day.parts_of("8b"):
        assert f"<!-- {part.fills}:cuda -->" in text, part.name


def test_parts_of_the_full_day_fit_their_minutes():
    """All but the last two, which take what is left."""
    seconds = [part.seconds for part in gpu_day.parts_of("8b")[:-2]]
    assert sum(seconds) <= 60 * gpu_day.FULL_MINUTES
    options = argparse.Namespace(shape="8b", device="cuda", out=Path("out"))
    for part in gpu_day.parts_of("8b"):
        files = [word for word in part.command(options, part.seconds) if word.endswith(".py")]
        assert all(Path(file).is_file() for file in files), part.name


def test_wheels_to_carry_are_the_tested_versions():
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    wheels = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "benchmarks" / "gpu_wheels.txt").read_text(), re.MULTILINE))
    assert {"transformers", "av"} <= set(wheels)
    assert wheels == {name: pinned[name] for name in wheels}


def test_launches_flops_and_bytes_are_what_a_linear_layer_has():
    with FakeTensorMode(), launches.Counts() as counts:
        layer, x = torch.nn.Linear(8, 16), torch.empty(4, 8)
        before = counts.read()
        layer(x).view(2, 2, 16).transpose(0, 1)
        number, flops, moved, seconds = counts.read() - before
    assert (number, flops, moved) == (1, 2 * 4 * 8 * 16, 4 * (4 * 8 + 8 * 16 + 16 + 4 * 16))
    assert seconds == moved / launches.H100["bytes"]


def test_a_frame_alone_needs_no_mask(monkeypatch):
    """Per MLP two products and an activation; attention in time of one step: four products and attention itself."""
    monkeypatch.setenv("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")
    family = Family(SHAPES["tiny"])
    with FakeTensorMode(), torch.no_grad():
        with no_init_weights():
            model = AutoModelForImageTextToText.from_config(family.pvc, attn_implementation="sdpa").eval()
        vision = model.config.vision_config
        parts = launches.count(model, lambda: model.get_video_features(torch.empty(1, 1, 3, 448, 448)))
    assert parts["MLP"][0] == 3 * vision.num_hidden_layers
    assert parts["temporal attention"][0] == 5 * vision.num_temporal_layers
    assert sum(values[0] for name, values in parts.items() if name != "whole") == parts["whole"][0]


def test_outcomes_of_tests_are_counted_once():
    """Of a worker that crashed, too; the summary at the end repeats those that failed."""
    printed = """
tests/device/test_on_gpu.py::test_a[1, 2]
[gw0] [ 20%] PASSED tests/device/test_on_gpu.py::test_a[1, 2]
tests/device/test_on_gpu.py::test_b
[gw0] node down: Not properly terminated
[gw0] [ 60%] FAILED tests/device/test_on_gpu.py::test_b
[gw1] [ 80%] SKIPPED tests/device/test_on_gpu.py::test_c
FAILED tests/device/test_on_gpu.py::test_b - worker 'gw0' crashed
"""
    assert gpu_tables.outcomes(printed) == "1 passed, 1 failed, 1 skipped\n* failed: `test_b`\n* skipped: `test_c`"


def test_only_some_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_day, "parts_of", lambda shape: [part("a", "pass"), part("b", "pass"), part("c", "pass")])
    assert run_day(tmp_path, "--only", "c", "a") == 0
    assert statuses(tmp_path) == {"a": "done", "c": "done"}
    with pytest.raises(ValueError, match=r"\['x'\] is none of \['a', 'b', 'c'\]"):
        run_day(tmp_path, "--only", "x")
