"""`pvc serve`: pvc-tiny behind transformers' own server, asked by the openai client."""

import base64
import socket
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor


openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")

from modeling_pvc.serving.openai_server import serve  # noqa: E402
from modeling_pvc.tools.cli import build_parser  # noqa: E402


TINY = Path(__file__).parents[2] / "examples" / "pvc_tiny"
CHECKPOINT = str(TINY / "checkpoint")
sys.path.append(str(TINY))

from data import make_sample  # noqa: E402


@pytest.fixture(scope="module")
def client():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = serve(CHECKPOINT, host="127.0.0.1", port=port, device="cpu", non_blocking=True)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60)
    for _ in range(100):
        try:
            client.models.list()
            break
        except openai.APIConnectionError:
            time.sleep(0.1)
    yield client
    server.kill_server()


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A picture and a clip, each as (kind, data URI, path, question)."""
    folder, result = tmp_path_factory.mktemp("media"), {}
    for kind, name, mime in (("image", "picture.png", "image/png"), ("video", "clip.mkv", "video/x-matroska")):
        sample = make_sample(kind, "test", 3, 0)
        if kind == "image":
            sample.media.save(folder / name)
        else:
            (folder / name).write_bytes(sample.media)
        data = base64.b64encode((folder / name).read_bytes()).decode()
        result[kind] = (kind, f"data:{mime};base64,{data}", str(folder / name), sample.questions[1][1])
    return result


def user(text, *media):
    held = [(f"{kind}_url", {"url": url} if isinstance(url, str) else url) for kind, url, *_ in media]
    blocks = [{"type": kind, kind: source} for kind, source in held]
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": text}]}]


def ask(client, messages, **options):
    options = {"model": CHECKPOINT, "max_tokens": 12, "temperature": 0, **options}
    return client.chat.completions.create(messages=messages, **options)


def generated(text, *media, **options):
    """Answer and length of the prompt, by `generate`."""
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT).eval()
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    blocks = [{"type": kind, "path": path, **options} for kind, _, path, _ in media]
    messages = [{"role": "user", "content": [*blocks, {"type": "text", "text": text}]}]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    length = inputs["input_ids"].shape[1]
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    return processor.decode(output[0, length:], skip_special_tokens=True), length


@pytest.mark.filterwarnings("ignore:Asked for")
@pytest.mark.parametrize("kinds", [(), ("image",), ("video",), ("video", "image", "video")], ids=str)
def test_answers_equal_generate(client, media, kinds):
    chosen = [media[kind] for kind in kinds]
    question = chosen[0][3] if chosen else "Which shape comes first?"
    expected = generated(question, *chosen)
    completion = ask(client, user(question, *chosen))
    assert (completion.choices[0].message.content, completion.usage.prompt_tokens) == expected
    chunks = ask(client, user(question, *chosen), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected[0]


def test_a_request_may_choose_the_number_of_frames(client, media):
    options = {"extra_body": {"chat_template_kwargs": {"num_frames": 3}}}
    completion = ask(client, user(media["video"][3], media["video"]), **options)
    assert completion.usage.prompt_tokens == generated(media["video"][3], media["video"], num_frames=3)[1]


@pytest.mark.parametrize(("detail", "options"), [("low", {"image_steps": 1}), ("high", {})])
def test_the_detail_of_a_picture_is_its_cost(client, media, detail, options):
    kind, url, _, question = media["image"]
    messages = user(question, (kind, {"url": url, "detail": detail}))
    completion = ask(client, messages)
    expected = generated(question, media["image"], **options)
    assert (completion.choices[0].message.content, completion.usage.prompt_tokens) == expected
    block = {"type": "input_image", "image_url": url, "detail": detail}
    content = [block, {"type": "input_text", "text": question}]
    turns = [{"role": "user", "content": content}]
    response = client.responses.create(model=CHECKPOINT, input=turns, temperature=0, stream=False)
    assert response.usage.input_tokens == expected[1]


def test_a_block_of_a_request_has_its_own_options(client, media):
    question = media["video"][3]
    messages = user(question, media["video"])
    messages[0]["content"][0]["num_frames"] = 3
    assert ask(client, messages).usage.prompt_tokens == generated(question, media["video"], num_frames=3)[1]


def test_tools_that_the_template_does_not_read_are_refused(client):
    tool = {"type": "function", "function": {"name": "look", "description": "Looks."}}
    with pytest.raises(openai.BadRequestError, match="does not read `tools`"):
        ask(client, user("What?"), tools=[tool])
    assert ask(client, user("What?"), tools=[]).usage.prompt_tokens


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (user("What?", ("image", "data:image/png;base64,AAAA")), "image"),
        (user("What?", ("image", {"url": "data:image/png;base64,AAAA", "detail": "finest"})), "finest"),
        (user("What?", ("video", {"url": "data:video/mp4;base64,AAAA", "fps": 3})), "fps"),
        ([{"role": "user", "content": [{"type": "file", "file": {"file_id": "a"}}]}], "'file'"),
        (user("What?", ("video", "data:video/mp4;base64,AAAA")), "video"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "image_url"),
        ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA"}}]}], "audio"),
        (user("long " * 6000), "positions"),
        (user("What?", ("image", "/etc/hostname")), "allowed_local_media_path"),
        (user("What?", ("video", "file:///etc/hostname")), "allowed_local_media_path"),
        (user("What?", ("image", "http://127.0.0.1:1/picture.png")), "not public"),
    ],
    ids=[
        "image",
        "detail",
        "fps",
        "file",
        "video",
        "no url",
        "audio",
        "long",
        "local path",
        "file URL",
        "private address",
    ],
)
def test_bad_requests_are_refused_with_the_reason(client, messages, message):
    with pytest.raises(openai.BadRequestError, match=message):
        ask(client, messages)
    assert ask(client, user("Which shape comes first?")).choices[0].message.content


def test_a_request_brings_no_template(client):
    options = {"extra_body": {"chat_template_kwargs": {"chat_template": "{{ messages }}"}}}
    with pytest.raises(openai.BadRequestError, match="chat_template of its own"):
        ask(client, user("What?"), **options)


def test_a_typed_placeholder_is_text(client):
    assert ask(client, user("What is in <VIDEO_CONTEXT>?")).choices[0].message.content


def test_one_model_is_served(client):
    assert [model.id for model in client.models.list()] == [CHECKPOINT]
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(client, user("What?"), model="another/model")
    assert "pinned to" in refusal.value.response.text
    request = urllib.request.Request(str(client.base_url.join("/load_model")), b'{"model": "another/model"}')
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(request)


def test_answers_end_where_the_positions_do(client):
    completion = ask(client, user("ab " * 1350), max_tokens=4000)
    assert completion.usage.total_tokens <= 4096


def test_the_command():
    options = build_parser().parse_args(["serve", "folder", "--port", "81", "--device", "cpu"])
    assert (options.model, options.host, options.port, options.device) == ("folder", "localhost", 81, "cpu")
