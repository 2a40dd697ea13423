"""Many programs at once against a running app: is everyone served or told to wait, and does the server's memory stay flat?

    python app.py &
    python examples/app_load.py --pid $! --clients 12 --requests 200

Prints one JSON line: answers by kind, seconds a request, and the server's resident memory in MB after each tenth of the requests.
"""

import argparse
import json
import statistics
import threading
import time
import wave
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil

MEDIA = Path(__file__).parent / "media"


def upload(address: str, path: Path) -> dict:
    with open(path, "rb") as file:
        names = httpx.post(f"{address}/gradio_api/upload", files={"files": file}, timeout=120).raise_for_status().json()
    return {"path": names[0], "meta": {"_type": "gradio.FileData"}}


def generate(address: str, portrait: Path, speech: Path, seed: int) -> str:
    """One visit, uploads included: "served", "told to wait", or what went wrong."""
    values = [upload(address, portrait), upload(address, speech), True, 1, seed, 1.0]
    posted = httpx.post(f"{address}/gradio_api/call/generate", json={"data": values}, timeout=120)
    if posted.status_code == 503:
        return "told to wait"
    answer = httpx.get(f"{address}/gradio_api/call/generate/{posted.json()['event_id']}", timeout=1800).text
    return "served" if "event: complete" in answer and "ai-generated.mp4" in answer else answer[-200:]


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
    parser.add_argument("--seconds", type=float, default=0.4, help="of speech")
    options = parser.parse_args()
    server, memory, seconds, lock = psutil.Process(options.pid), [], [], threading.Lock()
    with TemporaryDirectory() as folder, ThreadPoolExecutor(options.clients) as pool:
        speech = first_seconds(MEDIA / "speech_hello.wav", options.seconds, Path(folder) / "speech.wav")

        def visit(number: int) -> str:
            started = time.perf_counter()
            answer = generate(options.address, MEDIA / "portrait_woman.jpg", speech, number)
            with lock:
                seconds.append(time.perf_counter() - started)
                if len(seconds) % max(1, options.requests // 10) == 0:
                    memory.append(round(server.memory_info().rss / 2**20))
            return answer

        answers = Counter(pool.map(visit, range(options.requests)))
    print(json.dumps({"answers": answers, "median_seconds": round(statistics.median(seconds), 2), "longest_seconds": round(max(seconds), 2),
                      "memory_mb": memory}))


if __name__ == "__main__":
    main()
