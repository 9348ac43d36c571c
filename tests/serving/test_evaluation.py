"""The models for lmms-eval and VLMEvalKit, with stand-ins for what these define. Real runs: docs/evaluation.md."""

import importlib
import json
import sys
import types
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from modeling_pvc.evaluation.protocol import WATCH, WORD_OR_PHRASE, answer, authors_words, max_image_tiles


ROOT = Path(__file__).parents[2]
CHECKPOINT = str(ROOT / "examples" / "pvc_tiny" / "checkpoint")


def module(monkeypatch, name, **attributes):
    made = types.ModuleType(name)
    vars(made).update(attributes)
    monkeypatch.setitem(sys.modules, name, made)


class Base:
    """What lmms-eval's `lmms` has."""

    def __init__(self):
        self._rank, self._world_size, self.task_dict = 0, 1, {}

    rank = property(lambda self: self._rank)
    world_size = property(lambda self: self._world_size)


class ChatMessages:
    def __init__(self, messages):
        self.messages = messages

    def to_hf_messages(self):
        return [dict(message, content=[dict(block) for block in message["content"]]) for message in self.messages]


@pytest.fixture
def lmms_eval(monkeypatch):
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models"):
        module(monkeypatch, name)
    module(monkeypatch, "lmms_eval.api.instance", Instance=object)
    module(monkeypatch, "lmms_eval.api.model", lmms=Base)
    module(monkeypatch, "lmms_eval.protocol", ChatMessages=ChatMessages)
    module(monkeypatch, "lmms_eval.models.registry_v2", ModelManifest=types.SimpleNamespace)
    monkeypatch.delitem(sys.modules, "modeling_pvc.evaluation.lmms_eval_model", raising=False)
    yield importlib.import_module("modeling_pvc.evaluation.lmms_eval_model")
    sys.modules.pop("modeling_pvc.evaluation.lmms_eval_model", None)


DOCS = {i: {"question": question} for i, question in enumerate(["Which shape comes first?", "Which colour?", "What?"])}


def requests(task="local", **options):
    def messages_of(doc):
        return [{"role": "user", "content": [{"type": "text", "text": doc["question"]}]}]

    options = {"max_new_tokens": 5, **options}
    return [types.SimpleNamespace(args=("", messages_of, options, i, task, "test"), idx=0) for i in DOCS]


def make(lmms_eval, **options):
    model = lmms_eval.PVC(CHECKPOINT, device="cpu", **options)
    model.task_dict = {"local": {"test": DOCS}}
    return model


def test_the_entry_point_leads_to_a_chat_model(lmms_eval):
    (entry,) = entry_points(group="lmms_eval.models", name="pvc")
    manifest = entry.load()()
    name, _, cls = manifest.chat_class_path.rpartition(".")
    assert manifest.model_id == "pvc" and getattr(importlib.import_module(name), cls).is_simple is False


@pytest.mark.parametrize(
    ("name", "tiles"),
    [("chartqa", 12), ("ChartQA_TEST", 12), ("docvqa_val", 18), ("infovqa_val", 24), ("InfoVQA_VAL", 24),
     ("mme", 6), ("", 6)],
)  # fmt: skip
def test_tiles_are_those_of_the_paper(name, tiles):
    assert max_image_tiles(name) == tiles


LETTER = "Answer with the option's letter from the given choices directly."


@pytest.mark.parametrize(
    ("task", "theirs", "authors"),
    [
        ("chartqa", "How many?\nAnswer the question with a single word.", f"How many? {WORD_OR_PHRASE}"),
        ("docvqa_val", f"Who?\n{WORD_OR_PHRASE}", f"Who? {WORD_OR_PHRASE}"),
        ("textvqa_val", f"a\nb?\n{WORD_OR_PHRASE}", f"a\nb? {WORD_OR_PHRASE}"),
        ("ai2d", f"Which?\nA. x\nB. y\n{LETTER}", "Which?\nA. x\nB. y"),
        (
            "mvbench_action_antonym",
            "Question:What?\nOption:\n(A) x\n(B) y\nOnly give the best option.\n",
            f"{WATCH}\n\nQuestion: What?\nOptions:\n(A) x\n(B) y\nOnly give the best option.",
        ),
        ("mmerealworld", f"a?\n{WORD_OR_PHRASE}", f"a?\n{WORD_OR_PHRASE}"),  # another benchmark
        ("mmbench_en_dev", f"a?\n{LETTER}", f"a?\n{LETTER}"),
    ],
)
def test_questions_are_in_the_authors_words(lmms_eval, task, theirs, authors):
    def messages_of(doc):
        return [{"role": "user", "content": [{"type": "text", "text": theirs}]}]

    request = types.SimpleNamespace(args=("", messages_of, {}, 0, task, "test"))
    for words, expected in (("authors", authors), ("task", theirs)):
        model = make(lmms_eval, words=words)
        model.task_dict = {task: {"test": DOCS}}
        (message,) = model._conversation(request)
        assert message["content"] == [{"type": "text", "text": expected}]
    with pytest.raises(ValueError, match="words='mine'"):
        make(lmms_eval, words="mine")


def test_words_that_are_not_known_are_kept_and_said(caplog):
    assert authors_words("chartqa", "How many? In short.") == "How many? In short."
    assert "How many? In short." in caplog.text


def test_answers_do_not_depend_on_batches_and_are_kept(lmms_eval, tmp_path):
    alone = make(lmms_eval).generate_until(requests())
    path = tmp_path / "run" / "answers.jsonl"
    assert make(lmms_eval, batch_size=2, answers=str(path)).generate_until(requests()) == alone
    written = path.with_name("answers.jsonl.0")
    lines = written.read_text().splitlines(keepends=True)
    assert len(lines) == 4

    written.write_text("".join(lines[:2]) + lines[2][:9])  # a run that was killed while it wrote the second answer
    again = make(lmms_eval, answers=str(path))
    asked = []
    again._answers = lambda batch: asked.extend(batch) or ["new"] * len(batch)
    assert sum(text == "new" for text in again.generate_until(requests())) == len(asked) == 2
    assert [len(json.loads(line)) for line in written.read_text().splitlines()][1:] == [2, 2, 2]
    with pytest.raises(ValueError, match=r"answers.jsonl.0 holds answers of .*'num_frames': 96.*Name another file"):
        make(lmms_eval, answers=str(path), num_frames=8)


def test_options_of_tasks(lmms_eval):
    options = lmms_eval.generation_options
    greedy = {"max_new_tokens": 16, "num_beams": 1, "do_sample": False}
    assert options({"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1}, "mme") == (greedy, [])
    sampled = {"temperature": 0.7, "do_sample": True, "max_new_tokens": 1024}
    assert options({"temperature": 0.7, "until": "\n"}, "mme") == (sampled, ["\n"])
    with pytest.raises(ValueError, match=r"options \['penalty_alpha'\] of mme are not honoured"):
        options({"penalty_alpha": 1}, "mme")
    with pytest.raises(ValueError, match=r"\['max_frames'\] are unknown"):
        make(lmms_eval, max_frames=3)
    assert lmms_eval._cut("a b\nc", ["\n"]) == "a b" and lmms_eval._cut("\nc", ["\n"]) == "\nc"


def test_parts_of_videos_are_passed_on(lmms_eval):
    model = make(lmms_eval)

    def messages_of(doc):
        return [
            {"role": "user", "content": [{"type": "video", "video": "a.mp4", "video_start": 1.0, "video_end": 2.0}]}
        ]

    (message,) = model._conversation(types.SimpleNamespace(args=("", messages_of, {}, 0, "local", "test")))
    assert message["content"] == [{"type": "video", "video": "a.mp4", "start": 1.0, "end": 2.0}]


def test_the_file_for_vlmevalkit(monkeypatch):
    for name in ("vlmeval", "vlmeval.vlm"):
        module(monkeypatch, name)
    module(monkeypatch, "vlmeval.vlm.base", BaseModel=type("BaseModel", (), {"__init__": lambda self: None}))
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "evaluate"))
    from vlmevalkit_pvc import PVC

    model = PVC(CHECKPOINT, device="cpu", max_new_tokens=5)
    given = model.generate_inner([{"type": "text", "value": "Which shape comes first?"}], dataset="MME")
    messages = [[{"role": "user", "content": [{"type": "text", "text": "Which shape comes first?"}]}]]
    expected = answer(model.model, model.processor, messages, 6, 96, max_new_tokens=5, do_sample=False)
    assert [given] == expected
    with pytest.raises(ValueError, match="not \\['audio'\\]"):
        model.generate_inner([{"type": "audio", "value": "a.wav"}])
