"""Many programs at once against a running app: is everyone served or told to wait, and does the server's memory stay flat?

    python app.py &
    python examples/app_load.py --pid $! --clients 12 --warm_up 300 --requests 1000 --abuse 0.4 --rest 80

With `--abuse`, so large a share of the visitors misbehaves: uploads that trickle in, are too large or are not what they say they are,
visitors that leave amid their video, and some that ask for files that are not theirs. Prints one JSON line: answers by kind, seconds a
well-behaved visit, the server's resident memory in MB after each tenth of the requests, how much larger it is after them than before,
both times after `--rest` seconds without a request (visits are remembered for a minute), and files that are left in its `--folder`
(GRADIO_TEMP_DIR) that are not an upload or a video.
"""

import argparse
import json
import random
import statistics
import threading
import time
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil
from tqdm import tqdm

MEDIA = Path(__file__).parent / "media"


def upload(address: str, path: Path) -> dict:
    with open(path, "rb") as file:
        names = httpx.post(f"{address}/gradio_api/upload", files={"files": file}, timeout=120).raise_for_status().json()
    return {"path": names[0], "meta": {"_type": "gradio.FileData"}}


def order(address: str, portrait: dict, speech: dict, seed: int) -> str | None:
    """Ask for a video of one step; where its events can be read, or None where one is told to wait."""
    values = [portrait, speech, True, 1, seed, 1.0, 0, 1920, 1.0]
    posted = httpx.post(f"{address}/gradio_api/call/generate", json={"data": values}, timeout=120)
    return None if posted.status_code == 503 else f"{address}/gradio_api/call/generate/{posted.json()['event_id']}"


def generate(address: str, portrait: Path, speech: Path, seed: int) -> str:
    """One visit, uploads included: "served", "told to wait", or what went wrong."""
    events = order(address, upload(address, portrait), upload(address, speech), seed)
    if events is None:
        return "told to wait"
    answer = httpx.get(events, timeout=1800).text
    return "served" if "event: complete" in answer and "ai-generated.mp4" in answer else answer[-200:]


def slow(address: str, portrait: Path, speech: Path, seed: int) -> str:
    """An upload that takes three seconds."""
    content, boundary = portrait.read_bytes(), "slow"

    def trickle() -> Iterator[bytes]:
        yield (f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="slow.jpg"\r\n'
               "Content-Type: image/jpeg\r\n\r\n").encode()
        for start in range(0, len(content), len(content) // 10 + 1):
            yield content[start:start + len(content) // 10 + 1]
            time.sleep(0.3)
        yield f"\r\n--{boundary}--\r\n".encode()

    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    posted = httpx.post(f"{address}/gradio_api/upload", content=trickle(), headers=headers, timeout=120)
    return "uploaded slowly" if posted.status_code == 200 else f"slow upload: {posted.status_code}"


def oversized(address: str, portrait: Path, speech: Path, seed: int) -> str:
    posted = httpx.post(f"{address}/gradio_api/upload", files={"files": ("large.jpg", bytes(25 * 2**20))}, timeout=120)
    return "too large, refused" if posted.status_code == 413 else f"25 MB: {posted.status_code}"


def lying(address: str, portrait: Path, speech: Path, seed: int) -> str:
    """A picture that calls itself a recording."""
    with open(portrait, "rb") as file:
        name, = httpx.post(f"{address}/gradio_api/upload", files={"files": (f"{seed}.wav", file)}, timeout=120).json()
    events = order(address, upload(address, portrait), {"path": name, "meta": {"_type": "gradio.FileData"}}, seed)
    if events is None:
        return "told to wait"
    answer = httpx.get(events, timeout=1800).text
    return "not a recording, refused" if "event: error" in answer else f"lying: {answer[-200:]}"


def leaving(address: str, portrait: Path, speech: Path, seed: int) -> str:
    """Goes away as soon as the server says anything."""
    events = order(address, upload(address, portrait), upload(address, speech), seed)
    if events is None:
        return "told to wait"
    with httpx.stream("GET", events, timeout=1800) as answer:
        next(answer.iter_raw(), None)
    return "left"


def prying(address: str, portrait: Path, speech: Path, seed: int) -> str:
    """Asks for files of the machine, and for whatever lies in the folder of other visitors' uploads."""
    own = Path(upload(address, portrait)["path"])
    asked = ["/etc/passwd", f"{own.parent}/../../../etc/passwd", str(own.parent.parent), str(own.parent), str(Path(__file__).absolute()),
             "app.py"]
    got = [path for path in asked if httpx.get(f"{address}/gradio_api/file={path}", timeout=60).status_code == 200]
    return f"given {got}" if got else "given nothing"


ABUSES: tuple[Callable[[str, Path, Path, int], str], ...] = (slow, oversized, lying, leaving, prying)


def first_seconds(source: Path, seconds: float, target: Path) -> Path:
    """So much of a wav file, which starts over where it is shorter."""
    with wave.open(str(source)) as reader, wave.open(str(target), "w") as writer:
        writer.setparams(reader.getparams())
        left = round(seconds * reader.getframerate())
        while left > 0:
            reader.rewind()
            writer.writeframes(reader.readframes(left))
            left -= reader.getnframes()
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="http://127.0.0.1:7860")
    parser.add_argument("--pid", type=int, required=True, help="of the server")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--warm_up", type=int, default=0, help="requests before those that count")
    parser.add_argument("--rest", type=float, default=0.0, help="seconds without a request before memory is compared")
    parser.add_argument("--seconds", type=float, default=0.4, help="of speech")
    parser.add_argument("--portrait", type=Path, default=MEDIA / "portrait_woman.jpg")
    parser.add_argument("--abuse", type=float, default=0.0, help="share of visitors that misbehave, 0 to 1")
    parser.add_argument("--folder", type=Path, help="the server's folder of temporary files")
    options = parser.parse_args()
    server, memory, seconds, done, lock = psutil.Process(options.pid), [], [], 0, threading.Lock()
    with TemporaryDirectory() as folder, ThreadPoolExecutor(options.clients) as pool:
        speech = first_seconds(MEDIA / "speech_hello.wav", options.seconds, Path(folder) / "speech.wav")

        def visit(number: int) -> str:
            nonlocal done
            rng, started = random.Random(number), time.perf_counter()
            misbehaves = rng.random() < options.abuse
            act = rng.choice(ABUSES) if misbehaves else generate
            answer = act(options.address, options.portrait, speech, number)
            with lock:
                done += 1
                if not misbehaves:
                    seconds.append(time.perf_counter() - started)
                if done % max(1, options.requests // 10) == 0:
                    memory.append(round(server.memory_info().rss / 2**20, 1))
            return answer

        def at_rest() -> float:
            time.sleep(options.rest)
            return server.memory_info().rss / 2**20

        for _ in tqdm(pool.map(visit, range(options.requests, options.requests + options.warm_up)), total=options.warm_up, desc="warm-up"):
            pass
        before = at_rest()
        memory, seconds, done = [], [], 0
        answers = Counter(tqdm(pool.map(visit, range(options.requests)), total=options.requests))
        growth = at_rest() - before
    left = [str(path) for path in options.folder.rglob("*") if path.is_file() and len(path.parent.name) != 64] if options.folder else []
    print(json.dumps({"answers": answers, "median_seconds": round(statistics.median(seconds), 2), "longest_seconds": round(max(seconds), 2),
                      "memory_mb": memory, "growth_at_rest_mb": round(growth, 1), "files_left": left}))


if __name__ == "__main__":
    main()
