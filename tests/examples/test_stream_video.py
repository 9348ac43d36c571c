"""The streaming example on a file at its pace, on a network stream of ffmpeg, and when it is interrupted."""

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import stream_video
import torch

from modeling_pvc import PVCForConditionalGeneration, PVCStream


EXAMPLE = Path(stream_video.__file__)


def command(checkpoint, source, *arguments):
    arguments = ["--max-new-tokens", "2", "--every", "3", *map(str, arguments)]
    return [sys.executable, str(EXAMPLE), "--model", str(checkpoint), "--source", str(source), *arguments, "Why?"]


def example(checkpoint, source, *arguments, monkeypatch, capsys):
    """Runs the example in this process; returns what it printed."""
    monkeypatch.setattr(sys, "argv", command(checkpoint, source, *arguments)[1:])
    stream_video.main()
    return capsys.readouterr().out


def summary(output):
    return tuple(map(int, re.search(r"(\d+) frames appended, (\d+) dropped", output).groups()))


def test_a_file_at_full_speed(checkpoint, clip, monkeypatch, capsys, tmp_path):
    state = tmp_path / "state"
    arguments = ("--fast", "--fps", 6, "--state", state)
    output = example(checkpoint, clip, *arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert summary(output) == (12, 0) and output.count("Why?") == 4
    output = example(checkpoint, clip, *arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert summary(output) == (24, 0) and [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_file_at_its_pace(checkpoint, clip, monkeypatch, capsys):
    began = time.monotonic()
    appended, dropped = summary(example(checkpoint, clip, "--fps", 6, monkeypatch=monkeypatch, capsys=capsys))
    assert appended + dropped == 12
    assert time.monotonic() - began >= 11 / 6  # the last of 12 frames at 6 per second is due then


def test_only_the_newest_frame_waits():
    taken, read = threading.Event(), threading.Event()

    def source():
        yield 0.0, "first"
        taken.wait()
        for i in range(1, 5):
            yield float(i), f"frame {i}"
        read.set()
        raise OSError("the cable was pulled")

    frames = stream_video.NewestFrame(source())
    arriving = iter(frames)
    assert next(arriving) == (0.0, "first")
    taken.set()
    read.wait()
    assert next(arriving) == (4.0, "frame 4") and frames.dropped == 3
    with pytest.raises(OSError, match="the cable was pulled"):
        next(arriving)


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


SENDER = ["ffmpeg", "-loglevel", "error", "-re", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=8:duration=3"]
SENDER += ["-c:v", "libx264", "-g", "4", "-tune", "zerolatency"]


@pytest.mark.timeout(120)
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")
def test_a_network_stream(checkpoint, monkeypatch, capsys):
    url = f"http://127.0.0.1:{free_port()}/live.ts"
    server = subprocess.Popen([*SENDER, "-f", "mpegts", "-listen", "1", url])
    try:
        wait_for(url)
        appended, dropped = summary(example(checkpoint, url, "--fps", 4, monkeypatch=monkeypatch, capsys=capsys))
    finally:
        server.kill()
        server.wait()
    assert 8 <= appended + dropped <= 13 and appended >= 3


def wait_for(url, seconds=10):
    """Until somebody listens, without taking the one connection that is served."""
    port = f":{int(url.split(':')[2].split('/')[0]):04X} "
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        listening = [line for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line]
        if any(port in line for line in listening):
            return
        time.sleep(0.1)
    raise TimeoutError(url)


def send(url, seconds):
    """Sends to a URL as soon as somebody listens, again until all was received or the time is over."""
    deadline = time.monotonic() + seconds
    wait_for(url, seconds)
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(subprocess.TimeoutExpired):  # `run` has killed it then
            if subprocess.run([*SENDER, "-f", "rtsp", "-rtsp_transport", "tcp", url], timeout=left).returncode == 0:
                return
        time.sleep(0.5)


@pytest.mark.timeout(150)
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")
def test_an_rtsp_stream(checkpoint, monkeypatch, capsys):
    url = f"rtsp://127.0.0.1:{free_port()}/live"
    sender = threading.Thread(target=send, args=(url, 60), daemon=True)
    sender.start()
    output = example(checkpoint, url, "--listen", "--fps", 4, monkeypatch=monkeypatch, capsys=capsys)
    sender.join(timeout=60)
    appended, dropped = summary(output)
    assert 11 <= appended + dropped <= 13 and appended >= 1


def test_ctrl_c_leaves_a_whole_file(checkpoint, clip, tmp_path):
    state = tmp_path / "state"
    process = subprocess.Popen(
        command(checkpoint, clip, "--fps", 3, "--state", state), stdout=subprocess.PIPE, text=True
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "frame 2" in line:
            process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    appended, _ = summary(lines[-1])
    model = PVCForConditionalGeneration.from_pretrained(checkpoint)
    stream = PVCStream.load(state, model, stream_video.AutoProcessor.from_pretrained(checkpoint))
    assert stream.num_frames == appended >= 2 and [path.name for path in tmp_path.iterdir()] == ["state"]
    with torch.no_grad():
        stream.ask("Why?", max_new_tokens=2)
