"""Mutation fuzzing of every kind of file that a user hands over: sound, pictures, video, configurations, weights, adapters, latents.

    make fuzz                                                              # 15 minutes, or a million cases
    python -m tests.fuzz --kinds audio video --cases 1000 --seed 7

Small valid files are damaged (bits, ranges, lengths, splices; JSON and safetensors also by their structure, PNG with its checksums put
right) and read as the library reads them.  A reader may succeed, or refuse with one sentence of the `InvalidInputError` family that names
the file and not its folder.  Anything else is a failure: another exception, the end of the process, more than 10 s of computing or a minute
of waiting, more than 300 MB of memory at once.  The input of a failure is written to `--failures`,
with what happened beside it, and the exit status is 1.

A case is decided by the seed and its number alone.  Cases run in a process of their own, which is replaced when it dies or hangs, and on
one core: threads for pictures of a few pixels cost FFmpeg more than the pictures.
"""

import argparse
import contextlib
import copy
import gc
import json
import logging
import multiprocessing
import os
import resource
import struct
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from temposync_pipeline.errors import InvalidInputError

MAX_SECONDS, MAX_WAIT, MAX_GROWTH = 10.0, 60.0, 300 * 2**20
KEPT_OF_A_KIND = 3  # inputs of failures that look alike
Reader = Callable[[Path], None]


@dataclass(frozen=True)
class Target:
    """A reader and the valid files, {name: content}, that it is tried on damaged copies of."""

    read: Reader
    files: dict[str, bytes]
    share: int = 1  # of the cases, relative to the others


# --- damage -----------------------------------------------------------------------------------------------------------

EDGES = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
ODD_VALUES = [None, True, False, 0, -1, 1, 0.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**30, "", "x", "é\n\0", "x" * 3000,
              "../../a", [], [0], [[]], [1] * 5000, {}, {"a": 1}, ["os", "system"], [-1, 2**40], "F32", "F64", "U8", "BF16"]


def pick(values: list, rng: np.random.Generator):
    """What `rng.choice` would take, which makes an array of them each time."""
    return values[rng.integers(len(values))]


def mutate(content: bytes, name: str, others: list[bytes], rng: np.random.Generator) -> bytes:
    """A damaged copy of a file."""
    structured = {".json": mutate_json, ".safetensors": mutate_safetensors}.get(Path(name).suffix)
    if structured and rng.random() < 0.6:
        return structured(content, rng)
    damaged = bytearray(content)
    for _ in range(int(rng.geometric(0.4))):
        pick(BYTE_DAMAGES, rng)(damaged, others, rng)
    if content.startswith(b"\x89PNG") and rng.random() < 0.7:
        return with_checksums(bytes(damaged))
    return bytes(damaged)


def flip_bits(data: bytearray, others: list[bytes], rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 9))):
        if data:
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))


def set_number(data: bytearray, others: list[bytes], rng: np.random.Generator) -> None:
    """A length, a count, a rate: near the beginning, where headers are, more often than elsewhere."""
    place = int(len(data) * rng.random() ** 3)
    form = pick([">", "<"], rng) + pick(["B", "H", "I"], rng)
    size = struct.calcsize(form)
    if place + size <= len(data):
        struct.pack_into(form, data, place, pick(EDGES, rng) % 256**size)


def truncate(data: bytearray, others: list[bytes], rng: np.random.Generator) -> None:
    del data[int(rng.integers(len(data) + 1)):]


def remove(data: bytearray, others: list[bytes], rng: np.random.Generator) -> None:
    start = int(rng.integers(len(data) + 1))
    del data[start:start + int(rng.integers(1, 65))]


def repeat(data: bytearray, others: list[bytes], rng: np.random.Generator) -> None:
    start = int(rng.integers(len(data) + 1))
    data[start:start] = data[start:start + int(rng.integers(1, 257))] * int(rng.integers(1, 4))


def scramble(data: bytearray, others: list[bytes], rng: np.random.Generator) -> None:
    start = int(rng.integers(len(data) + 1))
    length = min(len(data) - start, int(rng.integers(1, 65)))
    data[start:start + length] = rng.bytes(length)


def splice(data: bytearray, others: list[bytes], rng: np.random.Generator) -> None:
    other = pick(others, rng)
    start = int(rng.integers(len(other) + 1))
    place = int(rng.integers(len(data) + 1))
    data[place:place + int(rng.integers(257))] = other[start:start + int(rng.integers(1, 257))]


BYTE_DAMAGES = [flip_bits, set_number, truncate, remove, repeat, scramble, splice]


def with_checksums(png: bytes) -> bytes:
    """The chunks of a PNG with true CRCs: what is damaged in them gets past the first check."""
    place, parts = 8, [png[:8]]
    while place + 12 <= len(png):
        length = int.from_bytes(png[place:place + 4], "big")
        body = png[place + 4:place + 8 + length]
        parts.append(png[place:place + 4] + body + struct.pack(">I", zlib.crc32(body)))
        place += 12 + length
    return b"".join(parts) + png[place:]


def mutate_json(content: bytes, rng: np.random.Generator) -> bytes:
    value = json.loads(content)
    for _ in range(int(rng.integers(1, 4))):
        change_node(value, rng)
    text = json.dumps(value)
    return ("[" * 100_000 + text if rng.random() < 0.01 else text).encode()


def change_node(value: dict | list, rng: np.random.Generator) -> None:
    """Replace, remove or add somewhere in the tree."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if not keys:
        return
    key = pick(keys, rng)
    if isinstance(value[key], (dict, list)) and rng.random() < 0.7:
        change_node(value[key], rng)
    elif isinstance(value[key], str) and value[key].startswith("{") and rng.random() < 0.7:  # JSON in a text, as adapters' settings are
        value[key] = mutate_json(value[key].encode(), rng).decode()
    elif rng.random() < 0.1:
        del value[key]
    elif rng.random() < 0.1 and isinstance(value, dict):
        value[f"{key}_"] = copy.copy(pick(ODD_VALUES, rng))
    else:
        value[key] = copy.copy(pick(ODD_VALUES, rng))


def mutate_safetensors(content: bytes, rng: np.random.Generator) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header, body = content[8:8 + size], bytearray(content[8 + size:])
    if rng.random() < 0.7:
        header = mutate_json(header, rng)
    if rng.random() < 0.4 and len(body) >= 4:
        struct.pack_into("<f", body, 4 * int(rng.integers(len(body) // 4)), pick([np.nan, np.inf, 1e38, 0.0], rng))
    size = pick(EDGES, rng) if rng.random() < 0.1 else len(header)
    return struct.pack("<Q", size) + header + bytes(body)


# --- cases ------------------------------------------------------------------------------------------------------------


def kind_of(targets: dict[str, Target], number: int) -> str:
    kinds = [kind for kind, target in targets.items() for _ in range(target.share)]
    return kinds[number % len(kinds)]


@dataclass(frozen=True)
class Case:
    number: int
    kind: str
    name: str
    content: bytes


def make_case(targets: dict[str, Target], seed: int, number: int) -> Case:
    rng = np.random.default_rng([seed, number])
    kind = kind_of(targets, number)
    files = targets[kind].files
    name = pick(list(files), rng)
    return Case(number, kind, name, mutate(files[name], name, list(files.values()), rng))


def failure_of(case: Case, read: Reader, folder: Path) -> tuple[str, str] | None:
    """A short name of what went wrong and all there is to say of it; None where all is well."""
    path = folder / case.name
    path.write_bytes(case.content)
    before, started = peak_memory(), time.process_time()
    try:
        read(path)
    except InvalidInputError as error:
        if "\n" in str(error) or str(folder) in str(error) or not str(error):
            return f"{case.kind}: message", f"{type(error).__name__}: {error}"
    except BaseException as error:  # libraries in other languages have exceptions of their own
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "temposync_pipeline" in frame.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        return f"{case.kind}: {type(error).__name__} at {where}", traceback.format_exc()
    finally:
        path.unlink(missing_ok=True)
    if time.process_time() - started > MAX_SECONDS:
        return f"{case.kind}: hang", f"{time.process_time() - started:.0f} s"
    if peak_memory() - before > MAX_GROWTH:
        return f"{case.kind}: memory", f"{(peak_memory() - before) >> 20} MB more"
    return None


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def computed(process: int) -> float:
    """Seconds on a processor so far; 0 of a process that is gone."""
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(process).cpu_times()
        return times.user + times.system
    return 0.0


def work(targets: dict[str, Target], seed: int, numbers: range, folder: Path, current, failures) -> None:
    """What the process of its own does; `current` says which case it is at."""
    logging.disable(logging.CRITICAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[seed % len(os.sched_getaffinity(0))]})
    gc.freeze()  # what the libraries made as they were loaded is not gone through again and again
    for number in numbers:
        current.value = number
        try:
            case = make_case(targets, seed, number)
            failure = failure_of(case, targets[case.kind].read, folder)
        except Exception:  # here, not in the library
            failure = "fuzz.py", traceback.format_exc()
        if failure:
            failures.put((number, *failure))


# --- the run ----------------------------------------------------------------------------------------------------------


def fuzz(targets: dict[str, Target], cases: int, seconds: float, seed: int, kept: Path, first: int = 0) -> tuple[int, Counter]:
    """Run cases until one of both limits is reached; returns how many were run and the failures by their short names."""
    context = multiprocessing.get_context("fork")
    counts: Counter = Counter()
    current, failures = context.Value("Q", first, lock=False), context.Queue()
    deadline, place, end = time.monotonic() + seconds, first, first + cases

    def record(number: int, name: str, text: str) -> None:
        counts[name] += 1
        if counts[name] <= KEPT_OF_A_KIND:
            case = make_case(targets, seed, number)
            kept.mkdir(parents=True, exist_ok=True)
            (kept / f"{number}_{case.name}").write_bytes(case.content)
            (kept / f"{number}.txt").write_text(f"{name}\n{text}\n", encoding="utf-8")

    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        while place < end and time.monotonic() < deadline:
            process = context.Process(target=work, args=(targets, seed, range(place, end), Path(folder), current, failures), daemon=True)
            current.value = place
            process.start()
            seen, since, before = place, time.monotonic(), 0.0
            while process.is_alive() and time.monotonic() < deadline:
                process.join(0.2)
                if current.value != seen:
                    seen, since, before = current.value, time.monotonic(), computed(process.pid)
                elif computed(process.pid) - before > MAX_SECONDS or time.monotonic() - since > MAX_WAIT:
                    record(seen, f"{kind_of(targets, seen)}: hang", f"{computed(process.pid) - before:.0f} s of computing, "
                           f"{time.monotonic() - since:.0f} s in all")
                    break
                _drain(failures, record)
            hung, out_of_time = process.is_alive() and time.monotonic() < deadline, time.monotonic() >= deadline
            crashed = not process.is_alive() and process.exitcode != 0
            process.kill()
            process.join()
            _drain(failures, record)
            if crashed:
                record(current.value, f"{kind_of(targets, current.value)}: crash", f"exit status {process.exitcode}")
            place = current.value + (0 if out_of_time and not hung else 1)
    return place - first, counts


def _drain(failures, record: Callable[[int, str, str], None]) -> None:
    time.sleep(0.01)
    while not failures.empty():
        record(*failures.get())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10**6)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kinds", nargs="*", help="audio, picture, video, config, weights, latents; default: all")
    parser.add_argument("--failures", type=Path, default=Path("outputs/fuzz"))
    options = parser.parse_args()
    import torch

    from .fuzz_targets import make_targets

    torch.set_num_threads(1)  # a process that has had more must not fork: its child would wait for them for ever
    targets = {kind: target for kind, target in make_targets().items() if not options.kinds or kind in options.kinds}
    started = time.monotonic()
    with contextlib.suppress(ValueError, OSError):  # a file that asks for all memory must not get the machine's
        resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))
    count, failures = fuzz(targets, options.cases, options.seconds, options.seed, options.failures, options.first)
    print(f"{count} cases of {', '.join(targets)} in {time.monotonic() - started:.0f} s, seed {options.seed}: {failures.total()} failures")
    for name, times in failures.most_common():
        print(f"{times:6d}  {name}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
