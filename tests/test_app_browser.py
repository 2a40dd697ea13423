"""The app as a visitor meets it: `python app.py` with the bundled weights, in Debian's Chromium.

Screenshots go to tests/artifacts.  `.ci/run` installs the browser; without one (`apt install chromium`) these tests are skipped.
"""

import base64
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
from gradio_client import Client, handle_file
from playwright.sync_api import Browser, Page, expect, sync_playwright

from .conftest import hear_interrupts

ROOT = Path(__file__).parent.parent
MEDIA = ROOT / "examples" / "media"
ARTIFACTS = Path(__file__).parent / "artifacts"
CHROMIUM = shutil.which("chromium")
# Other work may share the machine; nothing here waits that long on an idle one.
PATIENCE = 240_000
PLAYING = "() => { const video = document.querySelector('#video video'); return video && video.videoWidth > 0 && video.currentTime > 0.3; }"

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt install chromium"), pytest.mark.makes_videos]


# What the page shows and plays: {shown: times of its frames, loudest: the level that plays, pieces: the video as it comes, in base64}.
WATCH = """() => {
  const live = window.live = { shown: [], loudest: 0, pieces: [] }, video = document.querySelector('#live video');
  const sound = new AudioContext(), meter = sound.createAnalyser(), samples = new Float32Array(2048);
  sound.createMediaElementSource(video).connect(meter);
  meter.connect(sound.destination);
  const look = (now, { mediaTime }) => {
    meter.getFloatTimeDomainData(samples);
    live.loudest = Math.max(live.loudest, ...samples);
    live.shown.push(mediaTime);
    video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
  const append = SourceBuffer.prototype.appendBuffer;
  SourceBuffer.prototype.appendBuffer = function (bytes) {
    live.pieces.push(btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join('')));
    return append.call(this, bytes);
  };
}"""


@contextmanager
def running_app(folder: Path, end: int = signal.SIGINT) -> Iterator[tuple[str, Path]]:
    """(address, log file) of the app, started the way a Space starts it; told to end by the signal `end`, it does, without complaint."""
    log = folder / "log.txt"
    environment = os.environ | {"TMPDIR": str(folder), "GRADIO_TEMP_DIR": str(folder / "gradio"), "PYTHONUNBUFFERED": "1"}
    with open(log, "w") as file:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT,
                                   preexec_fn=hear_interrupts)
    try:
        yield wait_for(lambda: re.search(r"http://127\.0\.0\.1:\d+", log.read_text()), process, log)[0], log
    finally:
        process.send_signal(end)
        assert process.wait(60) == 0, log.read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    with running_app(tmp_path_factory.mktemp("server")) as running:
        yield running


def wait_for(found, process: subprocess.Popen | None, log: Path, seconds: float = PATIENCE / 1000):
    """What `found` returns once that is true."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline and (process is None or process.poll() is None), log.read_text()
        time.sleep(0.1)
    return result


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    """Its microphone hears speech and silence, 3 s each, over and over."""
    heard = tmp_path_factory.mktemp("microphone") / "microphone.wav"
    with wave.open(str(MEDIA / "speech_hello.wav")) as source, wave.open(str(heard), "w") as target:
        target.setparams(source.getparams())
        count, size = round(3 * source.getframerate()), source.getsampwidth() * source.getnchannels()
        target.writeframes(source.readframes(count) + bytes(count * size))
    arguments = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={heard}"]
    with sync_playwright() as playwright:
        # A root user, as in a container, has no sandbox.
        arguments += ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(server, browser) -> Iterator:
    """Opens the page in a fresh session, without a network: visit(width=390, height=844)."""
    contexts, outside = [], []

    def open_page(width: int = 1280, height: int = 960, **device) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **device)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        local = re.compile(r"^(http://127\.0\.0\.1:|data:|blob:)")
        context.route(lambda url: not local.match(url), lambda route: (outside.append(route.request.url), route.abort()))
        page = context.new_page()
        page.goto(server[0])
        page.get_by_role("button", name="Generate").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert outside == [], "the page asked for something from elsewhere"


@pytest.fixture
def speech(tmp_path):
    """speech(seconds): so much of the example recording, over and over."""

    def cut(seconds: float) -> Path:
        path = tmp_path / f"{seconds}.wav"
        with wave.open(str(MEDIA / "speech_hello.wav")) as source, wave.open(str(path), "w") as target:
            target.setparams(source.getparams())
            size = source.getsampwidth() * source.getnchannels()
            recording, frames = source.readframes(source.getnframes()), round(seconds * source.getframerate())
            target.writeframes((recording * (1 + frames // source.getnframes()))[:size * frames])
        return path

    return cut


def upload(page: Page, portrait: Path | None = None, audio: Path | None = None) -> None:
    for box, path in (("#portrait", portrait), ("#voice", audio)):
        if path:
            page.locator(f"{box} input[type=file]").first.set_input_files(path)


def choose_example(page: Page, index: int = 0) -> None:
    page.locator("#examples button.gallery-item").nth(index).click()
    page.locator("#crop img").wait_for()
    page.locator("#timeline svg").first.wait_for()


def generate(page: Page) -> None:
    page.get_by_label("agree to this video").check()
    page.get_by_role("button", name="Generate").click()


def playing_video(page: Page) -> dict:
    page.wait_for_function(PLAYING)
    return page.evaluate("() => { const { videoWidth, videoHeight, duration, currentTime, error } = document.querySelector('#video video');"
                         " return { videoWidth, videoHeight, duration, currentTime, error }; }")


def screenshot(page: Page, name: str) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)


def test_newcomer(visit):
    """Example, consent, generate: the video plays, its length is the recording's, and it can be downloaded."""
    page = visit()
    screenshot(page, "1_arrival")
    choose_example(page)
    screenshot(page, "2_example")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("Confirm first that those shown and heard agree.")).to_be_visible(timeout=PATIENCE)
    screenshot(page, "3_consent_missing")
    page.get_by_test_id("toast-close").click()
    generate(page)
    expect(page.locator("#status")).to_contain_text(re.compile(r"Moving the lips: \d+ of 164 frames"), timeout=PATIENCE)
    screenshot(page, "4_progress")
    video = playing_video(page)
    assert video["error"] is None and (video["videoWidth"], video["videoHeight"]) == (594, 726)
    assert video["duration"] == pytest.approx(6.54, abs=0.05)
    page.wait_for_function(f"() => document.querySelector('#video video').currentTime > {video['currentTime'] + 0.5}")
    expect(page.locator("#status")).to_contain_text("6.6 s of video in")
    expect(page.get_by_text("AI-generated.")).to_be_visible()
    screenshot(page, "5_video")
    with page.expect_download() as download:
        page.locator("#video").get_by_label("Download").click()
    assert download.value.suggested_filename == "ai-generated.mp4" and download.value.path().stat().st_size > 10_000


def test_own_files_after_a_bad_one(visit, speech, tmp_path):
    page = visit()
    (tmp_path / "notes.png").write_text("not a picture")
    upload(page, portrait=tmp_path / "notes.png")
    expect(page.get_by_text("notes.png: not a readable PNG, JPEG, WebP, BMP, TIFF, GIF or AVIF picture")).to_be_visible(timeout=PATIENCE)
    screenshot(page, "6_bad_file")
    page.get_by_test_id("toast-close").click()
    page.locator("#portrait").get_by_label("Remove").click()
    shutil.copy(MEDIA / "portrait_man.jpg", tmp_path / "me.jpg")
    upload(page, tmp_path / "me.jpg", speech(1.0))
    page.locator("#crop img").wait_for()
    generate(page)
    assert playing_video(page)["duration"] == pytest.approx(1.0, abs=0.05)


def test_what_the_library_notices_is_said(visit, speech, tmp_path):
    page = visit()
    with wave.open(str(tmp_path / "hum.wav"), "w") as hum:
        hum.setparams((1, 2, 16_000, 0, "NONE", "not compressed"))
        hum.writeframes(np.int16(8000 * np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)).tobytes())
    upload(page, audio=tmp_path / "hum.wav")
    expect(page.get_by_text("hum.wav: no speech was heard in it; the lips will rest")).to_be_visible(timeout=PATIENCE)
    screenshot(page, "7_no_speech")
    page.get_by_test_id("toast-close").click()
    page.locator("#voice").get_by_label("Clear").click()
    upload(page, audio=speech(1.0))
    page.locator("#timeline svg").first.wait_for()
    expect(page.get_by_text("no speech was heard")).not_to_be_visible()


@pytest.mark.parametrize("moment", ["Listening", r"Moving the lips: \d+ of 750 frames"])
def test_stop(visit, server, speech, moment):
    """Early or amid the frames: the work ends, no file is left, and the page is as before, ready for the next video."""
    page, (_, log) = visit(), server
    upload(page, MEDIA / "portrait_man_2.jpg", speech(30))
    page.locator("#crop img").wait_for()
    page.locator("#timeline svg").first.wait_for()
    lines = len(log.read_text().splitlines())
    generate(page)
    expect(page.locator("#status")).to_contain_text(re.compile(moment), timeout=PATIENCE)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_contain_text("Stopped.", timeout=PATIENCE)

    def ends() -> list[str]:
        return re.findall(r"(\d+) of \d+ frames", "\n".join(log.read_text().splitlines()[lines:]))

    assert int(wait_for(ends, None, log)[0]) < 750
    wait_for(lambda: not list(log.parent.glob("tmp*")), None, log)
    assert page.locator("#status [role=progressbar]").count() == 0 and page.locator("#video video").count() == 0
    expect(page.locator("#status")).to_have_text("Stopped.")
    page.locator("#voice").get_by_label("Clear").click()
    upload(page, audio=speech(1.0))
    expect(page.locator("#timeline title").last).to_have_text(re.compile(r"–1\.00 s"), timeout=PATIENCE)
    page.get_by_role("button", name="Generate").click()
    assert playing_video(page)["duration"] == pytest.approx(1.0, abs=0.05)
    assert len(ends()) == 2


def test_stop_while_waiting(visit, server, speech):
    """Who gives up in the queue is never served, and the video before goes on."""
    pages, (_, log) = [visit(), visit()], server
    for page, seconds in zip(pages, (30, 1.0)):
        upload(page, MEDIA / "portrait_man_2.jpg", speech(seconds))
        page.locator("#crop img").wait_for()
        page.locator("#timeline svg").first.wait_for()
    lines = len(log.read_text().splitlines())
    generate(pages[0])
    expect(pages[0].locator("#status")).to_contain_text("of 750 frames", timeout=PATIENCE)
    generate(pages[1])
    pages[1].get_by_text(re.compile("queue", re.IGNORECASE)).first.wait_for()
    pages[1].get_by_role("button", name="Stop").click()
    expect(pages[1].locator("#status")).to_contain_text("Stopped.", timeout=PATIENCE)
    before = pages[0].locator("#status").inner_text()
    expect(pages[0].locator("#status")).not_to_have_text(before, timeout=PATIENCE)
    expect(pages[0].locator("#status")).to_contain_text("of 750 frames")
    pages[0].get_by_role("button", name="Stop").click()
    expect(pages[0].locator("#status")).to_have_text("Stopped.", timeout=PATIENCE)
    pages[0].wait_for_timeout(1000)
    assert len(re.findall(r"\d+ of \d+ frames", "\n".join(log.read_text().splitlines()[lines:]))) == 1


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_amid_a_video(tmp_path, speech, end):
    """Ctrl-C and a container's stop: the app ends by itself, and nothing of the visitor's stays behind."""
    with running_app(tmp_path, end) as (address, log):
        job = Client(address, verbose=False).submit(
            handle_file(MEDIA / "portrait_man_2.jpg"), handle_file(speech(30)), consent=True, api_name="/generate")
        wait_for(lambda: any("of 750 frames" in str(output) for output in job.outputs()), None, log)
        assert list(tmp_path.glob("tmp*"))
    assert not list(tmp_path.glob("tmp*"))
    assert "Traceback" not in log.read_text()


def test_two_tabs_at_once(visit, speech):
    pages = [visit(), visit()]
    for page, seconds in zip(pages, (1.0, 1.6)):
        upload(page, MEDIA / "portrait_woman.jpg", speech(seconds))
        page.locator("#crop img").wait_for()
        page.locator("#timeline svg").first.wait_for()
    for page in pages:
        generate(page)
    for page, seconds in zip(pages, (1.0, 1.6)):
        assert playing_video(page)["duration"] == pytest.approx(seconds, abs=0.05)


def test_phone(visit, speech):
    page = visit(390, 844, is_mobile=True, has_touch=True)
    upload(page, MEDIA / "portrait_man_2.jpg", speech(1.0))
    page.locator("#timeline svg").first.wait_for()
    generate(page)
    assert playing_video(page)["videoWidth"] > 0
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    screenshot(page, "7_phone")


def speak_live(page: Page) -> None:
    """A portrait whose head and eyes stand still says what the microphone hears."""
    page.get_by_role("tab", name="Speak live").click()
    page.locator("#live video").wait_for()
    page.evaluate(WATCH)
    page.get_by_role("button", name="Settings").click()
    page.locator("#live-portrait input[type=file]").first.set_input_files(MEDIA / "portrait_man.jpg")
    page.locator("#live-portrait img").wait_for()
    page.locator("#live-consent input").check()
    # Settings that have just been opened may not take a value yet.
    life = page.get_by_label("number input for Life")
    life.fill("0")
    life.press("Tab")
    expect(page.get_by_label("range slider for Life")).to_have_value("0")
    page.get_by_role("button", name="Speak", exact=True).click()


def changes(video: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Of each frame after the first: the sound's level in the 0.4 s around it, and by how many levels the mouth differs from before."""
    mouths, sound = [], []
    with av.open(io.BytesIO(video)) as container:
        for frame in container.decode():
            if isinstance(frame, av.VideoFrame):
                height, width = frame.height, frame.width
                luma = frame.to_ndarray()[:height]
                mouths.append(luma[height // 2:3 * height // 4, width // 3:2 * width // 3].astype(float))
            else:
                rate = frame.sample_rate
                sound.append(frame.to_ndarray()[0])
    sound = np.concatenate(sound)
    reach, step = rate // 5, rate / 25
    middles = np.rint(step * np.arange(1, len(mouths))).astype(int)
    levels = [np.sqrt(np.mean(sound[max(0, middle - reach):middle + reach] ** 2)) for middle in middles]
    return np.array(levels), np.abs(np.diff(mouths, axis=0)).mean((1, 2))


def test_a_microphone(visit, server):
    """The mouth moves while sound comes and rests in silence; nothing of what was heard is kept."""
    page, (_, log) = visit(), server
    before = set(log.parent.rglob("*"))
    speak_live(page)
    page.wait_for_function("() => window.live.shown.at(-1) > 5 && window.live.loudest > 0.05")
    expect(page.locator("#live .status")).to_contain_text("s after you spoke")
    screenshot(page, "8_live")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#live .status")).to_have_text("Stopped.", timeout=PATIENCE)
    live = page.evaluate("window.live")
    assert len(live["shown"]) > 30 and live["shown"] == sorted(live["shown"])
    assert page.evaluate("document.querySelector('#live video').error") is None
    levels, change = changes(b"".join(map(base64.b64decode, live["pieces"])))
    assert np.median(change[levels > 0.03]) > 3 * np.median(change[levels < 1e-3])
    frames, seconds = wait_for(lambda: re.findall(r"(\d+) frames live, ([\d.]+) s heard", log.read_text()), None, log)[0]
    assert float(seconds) == pytest.approx(int(frames) / 25, abs=0.1) and int(frames) == len(change) + 1
    assert {path.suffix for path in set(log.parent.rglob("*")) - before if path.is_file()} <= {".jpg"}  # the portrait


def test_who_closes_the_page_makes_room(visit, server):
    first, second = visit(), visit()
    speak_live(first)
    expect(first.locator("#live .status")).to_contain_text("Speak.", timeout=PATIENCE)
    speak_live(second)
    expect(second.get_by_text("Somebody else is speaking: try again in a minute")).to_be_visible(timeout=PATIENCE)
    first.close()
    wait_for(lambda: len(re.findall("frames live", server[1].read_text())) > 1, None, server[1])
    second.get_by_role("button", name="Speak", exact=True).click()
    expect(second.locator("#live .status")).to_contain_text(re.compile(r"Speak\.|after you spoke"), timeout=PATIENCE)
