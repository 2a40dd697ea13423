"""How long a visitor waits: from the click on Generate to the playing video, in a real browser, split by stage.

    python app.py &
    python examples/app_timing.py --seconds 5 --repeats 3

Prints one JSON line a video, in seconds: "click_to_playing", the server's stages as the page shows them (rounded to 0.1), and "page",
what is left: queueing, fetching and starting the video.  Needs playwright and Debian's chromium.
"""

import argparse
import json
import re
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from app_load import MEDIA, first_seconds
from playwright.sync_api import Page, sync_playwright

PLAYING = "() => { const video = document.querySelector('#video video'); return video && video.videoWidth > 0 && video.currentTime > 0; }"


def time_video(page: Page, address: str, speech: Path) -> dict[str, float]:
    page.goto(address)
    page.locator("#portrait input[type=file]").first.set_input_files(MEDIA / "portrait_woman.jpg")
    page.locator("#voice input[type=file]").first.set_input_files(speech)
    page.locator("#crop img").wait_for()
    page.locator("#timeline svg").first.wait_for()
    page.get_by_label("agree to this video").check()
    started = time.perf_counter()
    page.get_by_role("button", name="Generate").click()
    page.wait_for_function(PLAYING, polling=20)
    waited = time.perf_counter() - started
    shown = page.locator("#status small").inner_text()
    stages = {stage: float(seconds) for stage, seconds in re.findall(r"(\w[a-z ]+) ([\d.]+) s", shown)}
    return {"click_to_playing": round(waited, 2), **stages, "page": round(waited - sum(stages.values()), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="http://127.0.0.1:7860")
    parser.add_argument("--seconds", type=float, default=5.0, help="of speech")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        speech = first_seconds(MEDIA / "speech_hello.wav", options.seconds, Path(folder) / "speech.wav")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(600_000)
        for _ in range(options.repeats):
            print(json.dumps(time_video(page, options.address, speech)), flush=True)
        browser.close()


if __name__ == "__main__":
    main()
