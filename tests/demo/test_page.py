"""The page in a browser: Debian's chromium, driven by Playwright, with every other host blocked.

PVC_SCREENSHOTS=1 writes what README shows to docs/images.
"""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml


pytest.importorskip("gradio")
httpx = pytest.importorskip("httpx")
playwright = pytest.importorskip("playwright.sync_api")
from modeling_pvc.demo.page import MAX_UPLOAD, MAX_WAITING  # noqa: E402


CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
    pytest.mark.skipif(not hasattr(signal, "SIGTERM"), reason="needs signals"),
]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "modeling_pvc" / "demo" / "examples"
IMAGES = ROOT / "docs" / "images"
PATIENCE = 60_000  # ms, for a busy machine
WIDE, NARROW = {"width": 1280, "height": 1100}, {"width": 390, "height": 844}
DROP = """
([target, name, type, base64]) => {
    const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type}));
    for (const kind of ["dragenter", "dragover", "drop"])
        target.dispatchEvent(new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""


class Server:
    """`pvc demo` in a process of its own, with its own folder for temporary files."""

    def __init__(self, folder: Path, command: list[str], cwd: Path = ROOT):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.address = folder, f"http://127.0.0.1:{self.port}/"
        environment = {"TMPDIR": str(folder), "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SHARE": "True"}
        self.process = subprocess.Popen(
            [sys.executable, *[part.format(port=self.port) for part in command]],
            cwd=cwd,
            env={**os.environ, **environment, "PORT": str(self.port)},
        )

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file())

    def __enter__(self) -> "Server":
        for _ in range(900):
            assert self.process.poll() is None, "the server ended"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.2)
        self.__exit__()
        raise TimeoutError

    def __exit__(self, *error) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    command = ["-c", "import sys; from modeling_pvc.tools.cli import main; sys.exit(main(sys.argv[1:]))", "demo"]
    with Server(tmp_path_factory.mktemp("demo"), [*command, "--port", "{port}", "--device", "cpu"]) as server:
        yield server
    assert server.files() == []


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server):
    """Opens the page as a new visitor; what it asks of other hosts, and its errors, fail the test."""
    complaints = []

    @contextmanager
    def open_page(size=WIDE):
        context = browser.new_context(viewport=size, permissions=["camera"])
        context.set_default_timeout(PATIENCE)

        def guard(route):
            if route.request.url.startswith((server.address, "data:", "blob:")):
                route.continue_()
            else:
                complaints.append(route.request.url)
                route.abort()

        context.route("**/*", guard)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(server.address)
        page.get_by_role("button", name="Read the number.").wait_for()
        yield page
        context.close()

    yield open_page
    assert complaints == []


def see(page, place: str, text: str | re.Pattern) -> None:
    playwright.expect(page.locator(place)).to_contain_text(text, timeout=PATIENCE)


def drop(page, selector: str, file: Path, kind: str) -> None:
    target = page.locator(selector).first.element_handle()
    page.evaluate(DROP, [target, file.name, kind, base64.b64encode(file.read_bytes()).decode()])


def ask(page, question: str) -> None:
    box = page.locator("#question textarea")
    box.fill(question)
    box.press("Enter")


def screenshot(page, name: str) -> None:
    if os.environ.get("PVC_SCREENSHOTS"):
        page.evaluate("window.scrollTo(0, 0)")
        page.wait_for_timeout(1000)
        page.screenshot(path=IMAGES / name)


def test_examples_are_answered_rightly_and_show_their_costs(visit):
    with visit() as page:
        page.get_by_role("button", name="Read the number.").click()
        see(page, "#conversation", "687")
        see(page, "#status", "answered")
        page.get_by_role("button", name="Which shape comes last?").click()
        see(page, "#conversation", "green square")
        playwright.expect(page.locator("#conversation")).not_to_contain_text("687")  # a conversation of its own
        see(page, "#costs", "40 visual tokens; InternVL takes 160")
        see(page, "#costs", "0.00, 0.50, 1.00")
        see(page, "#times", "for each of")
        see(page, "#heat", "step 7, 3.50 s")  # where the ring comes
        slider = page.locator("#step input[type=range]")
        slider.focus()
        page.keyboard.press("ArrowRight")
        see(page, "#heat", "step 8, 4.00 s")
        assert "step 8" in page.locator("#heat img").get_attribute("alt")
        page.keyboard.press("ArrowLeft")
        see(page, "#heat", "step 7, 3.50 s")
        screenshot(page, "demo-chat.png")
        page.set_viewport_size(NARROW)
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]


def test_what_is_dropped_is_answered_taken_back_and_gone_afterwards(visit, server, tmp_path):
    picture, clip = tmp_path / "dropped.png", tmp_path / "dropped.mp4"
    shutil.copy(EXAMPLES / "scene.png", picture)
    shutil.copy(EXAMPLES / "order.mp4", clip)
    with visit(NARROW) as page:
        for file, kind, question, answer in (
            (picture, "image/png", "Count the shapes.", "3"),
            (clip, "video/mp4", "Which shape comes first?", "red triangle"),
        ):
            drop(page, "#question textarea", file, kind)
            page.locator("#question .thumbnail-item, #question .thumbnail-wrapper").first.wait_for()
            ask(page, question)
            see(page, "#conversation", question)
            see(page, "#status", "answered")
            see(page, "#conversation", answer)
            see(page, "#costs", file.name)
        ask(page, "Which shape comes last?")  # of the turn before
        see(page, "#conversation", "green square")
        see(page, "#status", "answered")
        page.get_by_role("button", name="Undo the last turn").click()
        see(page, "#status", "taken back")
        playwright.expect(page.locator("#conversation")).not_to_contain_text("green square")
        assert "dropped.png" in server.files()
        page.get_by_role("button", name="Start anew").click()
        playwright.expect(page.locator("#conversation")).not_to_contain_text("red triangle")
    for _ in range(100):
        if not {"dropped.png", "dropped.mp4"} & set(server.files()):
            return
        time.sleep(0.2)
    raise AssertionError(server.files())


SLOW_STEPS = """
import sys, time
from modeling_pvc.demo.chat_tab import ChatTab
from modeling_pvc.tools.cli import main
draw = ChatTab._steps
ChatTab._steps = lambda *arguments: time.sleep(3) or draw(*arguments)
sys.exit(main(sys.argv[1:]))
"""


def test_a_question_is_not_lost_while_the_steps_of_the_last_turn_are_drawn(browser, tmp_path):
    with Server(tmp_path, ["-c", SLOW_STEPS, "demo", "--port", "{port}", "--device", "cpu"]) as server:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(server.address)
        drop(page, "#question textarea", EXAMPLES / "scene.png", "image/png")
        page.locator("#question .thumbnail-item, #question .thumbnail-wrapper").first.wait_for()
        ask(page, "Count the shapes.")
        see(page, "#status", "answered")
        ask(page, "How many rings are there?")
        see(page, "#conversation", "How many rings are there?")
        see(page, "#status", "answered")
        page.close()


def test_a_clip_streams_and_is_asked_about_meanwhile(visit):
    with visit() as page:
        page.get_by_role("tab", name="Stream").click()
        page.get_by_role("button", name="Play the example").click()
        see(page, "#stream-state", re.compile(r"frame [6-9] at"))
        page.get_by_label("Ask about the frames so far").fill("Which shape comes first?")
        page.get_by_role("button", name="Ask", exact=True).click()
        see(page, "#stream-answers", "red triangle")
        see(page, "#stream-state", "frame 10 at 4.50 s")
        see(page, "#stream-state", "The model sees 10 of 10 frames")
        playwright.expect(page.locator(".pvc-frames li")).to_have_count(10)
        playwright.expect(page.locator("#curve canvas, #curve svg.marks").first).to_be_visible()
        screenshot(page, "demo-stream.png")


def test_a_webcam_streams(visit):
    with visit() as page:
        page.get_by_role("tab", name="Stream").click()
        page.get_by_text("Click to Access Webcam").click()
        page.locator("#webcam").get_by_role("button", name="capture photo").click()
        see(
            page, "#stream-state", re.compile(r"The model sees ([3-9]|\d\d+) of")
        )  # one that is looked for may be missed
        page.get_by_role("button", name="Stop the stream").click()


def test_an_uploaded_clip_streams(visit):
    with visit() as page:
        page.get_by_role("tab", name="Stream").click()
        page.locator("#stream-clip input[type=file]").set_input_files(EXAMPLES / "motion.mp4")
        playwright.expect(page.locator("#stream-clip")).to_contain_text("motion", timeout=PATIENCE)
        page.get_by_role("button", name="Play the clip").click()
        see(page, "#stream-state", "The stream has ended")


def test_a_picture_of_the_webcam_is_asked_about(visit):
    with visit() as page:
        page.get_by_role("button", name="Webcam: a picture for the next question").click()
        page.locator("#camera").get_by_text("Click to Access Webcam").click()
        page.wait_for_function("document.querySelector('#camera video')?.videoWidth > 0")  # a first picture to capture
        page.locator("#camera").get_by_role("button", name="capture photo").click()
        page.locator("#camera img").wait_for()
        ask(page, "Count the shapes.")
        see(page, "#status", "answered")
        see(page, "#costs", "1 tiles")


def test_steps_are_an_option(visit):
    with visit() as page:
        page.get_by_role("button", name="Options").click()
        steps = page.get_by_label("number input for Steps of a picture")
        steps.fill("2")
        steps.press("Tab")
        page.get_by_role("button", name="Read the number.").click()
        see(page, "#costs", "8 visual tokens; InternVL takes 16")


def call(server, path: str, **kwargs):
    return httpx.post(f"{server.address}gradio_api/{path}", timeout=120, **kwargs)


def test_what_is_too_large_is_refused_and_not_kept(server):
    refused = call(server, "upload", files={"files": ("large.mp4", b"0" * (MAX_UPLOAD + 1))})
    assert refused.status_code == 413
    assert "large.mp4" not in server.files()


def test_the_queue_is_fair_and_bounded(server):
    """40 visitors click an example at once: all that are not refused are answered, in the order of their clicks."""
    config = httpx.get(f"{server.address}config").json()
    options = [1, 16, 1, 4, 0, 8]  # turn, frames, tiles, steps, budget, length
    example = next(d for d in config["dependencies"] if len(d["inputs"]) == len(options) and d["queue"])
    joined = []
    for visitor in range(40):
        sent = {"data": options, "fn_index": example["id"], "session_hash": f"visitor{visitor}", "trigger_id": None}
        joined.append(call(server, "queue/join", json=sent))
    accepted = [visitor for visitor, answer in enumerate(joined) if answer.status_code == 200]
    refused = [answer for answer in joined if answer.status_code != 200]
    assert len(accepted) >= MAX_WAITING and all("full" in answer.text for answer in refused)

    def finished(visitor: int) -> tuple[float, int]:
        address = f"{server.address}gradio_api/queue/data?session_hash=visitor{visitor}"
        with httpx.stream("GET", address, timeout=120) as events:
            for line in events.iter_lines():
                if "process_completed" in line:
                    assert json.loads(line.removeprefix("data: "))["success"]
                    return time.monotonic(), visitor
        raise AssertionError(visitor)

    with ThreadPoolExecutor(len(accepted)) as threads:
        ends = sorted(threads.map(finished, accepted))
    assert sorted(visitor for _, visitor in ends) == accepted
    assert [visitor for _, visitor in ends[-20:]] == accepted[-20:]  # the first may have ended before anyone listened


def test_the_space_serves_the_checkpoint_beside_it(tmp_path, browser):
    space = tmp_path / "space"
    shutil.copytree(ROOT / "examples" / "space", space)
    shutil.copytree(ROOT / "modeling_pvc", space / "modeling_pvc")
    shutil.copytree(ROOT / "examples" / "pvc_tiny" / "checkpoint", space / "checkpoint")
    card = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert card["sdk"] == "gradio" and (space / card["app_file"]).is_file()
    with Server(tmp_path, [str(space / card["app_file"])], cwd=space) as server:
        page = browser.new_page()
        page.goto(server.address)
        page.get_by_role("button", name="Read the number.").click()
        see(page, "#conversation", "687")
        page.close()


def test_two_visitors_share_nothing(visit):
    with visit() as first, visit() as second:
        first.get_by_role("button", name="Read the number.").click()
        second.get_by_role("button", name="Which moves faster").click()
        see(first, "#conversation", "687")
        see(second, "#conversation", "green star")
        see(first, "#costs", "number.png")
        see(second, "#costs", "motion.mp4")
        first.get_by_role("button", name="Undo the last turn").click()
        see(first, "#status", "taken back")
        see(second, "#conversation", "green star")
        playwright.expect(second.locator("#conversation")).not_to_contain_text("687")


def test_everything_has_a_name_and_no_answer_leaves_the_machine(visit, server):
    nameless = """() => [...document.querySelectorAll('button, input, textarea, select, img')].filter(
        e => e.offsetParent && !(e.ariaLabel || e.labels?.length || e.innerText?.trim() || e.title || e.placeholder
            || e.alt || e.getAttribute('alt') === '' || e.getAttribute('aria-labelledby')
            || e.querySelector('img[alt]'))
    ).map(e => e.outerHTML.slice(0, 200))"""
    with visit() as page:
        page.get_by_role("button", name="Count the shapes.").click()
        see(page, "#status", "answered")
        assert page.evaluate(nameless) == []
        assert page.get_by_role("button", name="share").count() == 0
        page.get_by_role("tab", name="Stream").click()
        assert page.evaluate(nameless) == []
    with open("/proc/net/tcp") as table:
        listening = [line.split()[1] for line in table if line.split()[3] == "0A"]
    ours = [address for address in listening if address.endswith(f":{server.port:04X}")]
    assert ours == [f"0100007F:{server.port:04X}"]  # 127.0.0.1 alone, whatever gradio's environment variables say
