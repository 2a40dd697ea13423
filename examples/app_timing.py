"""How long a visitor waits, in a real browser: for the video after Generate, and for the page and the server after Stop.

    python app.py 2> app.log &
    python examples/app_timing.py --seconds 5 --repeats 3
    python examples/app_timing.py --seconds 60 --stop-after 0 0.2 0.5 1 2 4 8 16 --log app.log

Without --stop-after, one JSON line a video, in seconds: "click_to_playing", the server's stages as the page shows them (rounded to
0.1), and "page", what is left: queueing, fetching and starting the video.

With it, one JSON line a stop, so long after the first sign of progress: what the page showed "at" the click, and seconds from the click
until the page says "stopped", until the server has left the video and deleted its file ("idle", from the log), and until another
click on Generate shows progress ("next"); then the median and the longest of each.  Needs playwright and Debian's chromium.
"""

import argparse
import json
import re
import shutil
import statistics
import time
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from app_load import MEDIA, first_seconds
from playwright.sync_api import Page, sync_playwright

PLAYING = "() => { const video = document.querySelector('#video video'); return video && video.videoWidth > 0 && video.currentTime > 0; }"
SHOWN = "found => document.querySelector('#status .status')?.outerHTML.includes(found)"
# app.py logs this when a video is finished or stopped.
LOGGED = re.compile(r"^(\S+ \S+) temposync\.app: \w+: \d+ of \d+ frames", re.MULTILINE)


def prepare(page: Page, address: str, speech: Path) -> None:
    page.goto(address)
    page.locator("#portrait input[type=file]").first.set_input_files(MEDIA / "portrait_woman.jpg")
    page.locator("#voice input[type=file]").first.set_input_files(speech)
    page.locator("#crop img").wait_for()
    page.locator("#timeline svg").first.wait_for()
    page.get_by_label("agree to this video").check()


def time_video(page: Page, address: str, speech: Path) -> dict[str, float]:
    prepare(page, address, speech)
    started = time.perf_counter()
    page.get_by_role("button", name="Generate").click()
    page.wait_for_function(PLAYING, polling=20)
    waited = time.perf_counter() - started
    shown = page.locator("#status small").inner_text()
    stages = {stage: float(seconds) for stage, seconds in re.findall(r"(\w[a-z ]+) ([\d.]+) s", shown)}
    return {"click_to_playing": round(waited, 2), **stages, "page": round(waited - sum(stages.values()), 2)}


def begin(page: Page) -> None:
    page.get_by_role("button", name="Generate").click()
    page.wait_for_function(SHOWN, arg="progressbar", polling=20)


def time_stop(page: Page, delay: float, log: Path) -> dict[str, float | str]:
    """While a video is made; leaves the next one under way."""
    page.wait_for_timeout(1000 * delay)
    at, ends = page.locator("#status small").inner_text(), len(LOGGED.findall(log.read_text()))
    clicked, started = datetime.now(), time.perf_counter()
    page.get_by_role("button", name="Stop").click()
    page.wait_for_function(SHOWN, arg="Stopped.", polling=20)
    stopped = time.perf_counter() - started
    begin(page)
    following = time.perf_counter() - started
    while len(lines := LOGGED.findall(log.read_text())) == ends:
        time.sleep(0.02)
    idle = (datetime.strptime(lines[ends], "%Y-%m-%d %H:%M:%S,%f") - clicked).total_seconds()
    return {"at": at, "stopped": round(stopped, 2), "idle": round(idle, 2), "next": round(following, 2)}


def time_stops(page: Page, address: str, speech: Path, delays: list[float], log: Path) -> None:
    prepare(page, address, speech)
    begin(page)
    times = []
    for delay in delays:
        times.append(time_stop(page, delay, log))
        print(json.dumps(times[-1]), flush=True)
    page.get_by_role("button", name="Stop").click()
    page.wait_for_function(SHOWN, arg="Stopped.", polling=20)
    for name, of in (("median", statistics.median), ("longest", max)):
        print(json.dumps({name: {key: round(of(stop[key] for stop in times), 2) for key in ("stopped", "idle", "next")}}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="http://127.0.0.1:7860")
    parser.add_argument("--seconds", type=float, default=5.0, help="of speech")
    parser.add_argument("--repeats", type=int, default=3, help="videos")
    parser.add_argument("--stop-after", type=float, nargs="+", metavar="SECONDS", help="time stopping instead, once for each of these")
    parser.add_argument("--log", type=Path, help="what app.py writes to stderr; --stop-after needs it")
    options = parser.parse_args()
    if options.stop_after and not options.log:
        parser.error("--stop-after needs --log")
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        speech = first_seconds(MEDIA / "speech_hello.wav", options.seconds, Path(folder) / "speech.wav")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(600_000)
        if options.stop_after:
            time_stops(page, options.address, speech, options.stop_after, options.log)
        else:
            for _ in range(options.repeats):
                print(json.dumps(time_video(page, options.address, speech)), flush=True)
        browser.close()


if __name__ == "__main__":
    main()
