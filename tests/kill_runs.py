"""Kill a video or a training at random moments, by SIGKILL, which nobody can answer:

    python -m tests.kill_runs generate --kills 200
    python -m tests.kill_runs dub --kills 200
    python -m tests.kill_runs train --kills 200

A video of that name must always be the old one, whole, or the new one, whole, what is dubbed stays as it was, and the next run into the
folder leaves nothing there but these; a training, resumed after each kill, must end in the very weights of one that was never killed.
Prints how many kills came when, and ends with status 1 where that does not hold.
"""

import argparse
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from temposync_pipeline.media.video import VideoWriter, read_video
from temposync_pipeline.training.checkpointing import load_checkpoint

from .tiny_components import picture, spoken, tiny_pipeline
from .train_tiny import train

OLD = b"what was there before"


def killed(work: Callable[[], object], seconds: float) -> bool:
    """Do the work in a process of its own; True if it had to be killed after that time, False if it had finished by then."""
    process = os.fork()
    if process == 0:  # which does not tidy up after this one
        status = 1
        try:
            sys.stdout = sys.stderr = open(os.devnull, "w")
            work()
            status = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(status)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        finished, status = os.waitpid(process, os.WNOHANG)
        if finished:
            assert status == 0, f"it failed by itself, with status {status}"
            return False
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def count_frames(path: Path) -> int:
    """Up to 255, or 0 where the file cannot be read; by another process: the threads of a decoder here would not survive the next fork."""
    process = os.fork()
    if process == 0:
        try:
            os._exit(len(read_video(path)[0]))
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill_videos(folder: Path, kills: int, seed: int) -> Counter:
    """A speaking portrait, killed."""
    pipeline, speech = tiny_pipeline(), spoken(1.0)
    return kill_writing(
        lambda output: pipeline.generate_to_file(picture(96, 96), speech, output, 1, progress=False), folder / "out.mp4", kills, seed)


def kill_dubbing(folder: Path, kills: int, seed: int) -> Counter:
    """A film that is dubbed, killed."""
    pipeline, speech, film = tiny_pipeline(), spoken(0.3), folder / "film.mp4"
    process = os.fork()
    if process == 0:  # as in `count_frames`
        write_film(film)
        os._exit(0)
    os.waitpid(process, 0)
    before = film.read_bytes()
    found = kill_writing(
        lambda output: pipeline.dub_to_file(film, speech, output, 1, progress=False), folder / "out.mp4", kills, seed, beside=1)
    found["broken"] += film.read_bytes() != before
    return found


def write_film(path: Path, frames: int = 6) -> None:
    """A quarter of a second of a face that sways, without sound."""
    with VideoWriter(path, audio_path=None) as writer:
        for number in range(frames):
            writer.write(np.roll(picture(96, 96), number % 4, axis=1))


def kill_writing(write: Callable[[Path], object], output: Path, kills: int, seed: int, beside: int = 0) -> Counter:
    """What stood under the final name after each kill: "old", "new" or, which must not be, "broken"; files "hidden" beside it before a last
    run, which is not killed, and "left" after it."""
    moments, found = random.Random(seed), Counter()

    def make() -> None:
        write(output)

    def others() -> int:
        return len(list(output.parent.iterdir())) - 1 - beside

    started = time.monotonic()
    killed(make, 600)
    usual, length = time.monotonic() - started, count_frames(output)
    while found.total() < kills:
        output.write_bytes(OLD)
        started = time.monotonic()
        if not killed(make, moments.uniform(0, 1.1 * usual)):
            usual = time.monotonic() - started  # by which moments follow what else the machine does
            continue
        content = output.read_bytes()
        whole = content != OLD and count_frames(output) == length
        found["old" if content == OLD else "new" if whole else "broken"] += 1
    hidden = others()
    killed(make, 600)
    return found + Counter(hidden=hidden, left=others())


def kill_training(folder: Path, kills: int, seed: int, steps: int = 24) -> Counter:
    """How many kills came before a run's first checkpoint and after one, and how many runs, resumed until they ended, have weights "equal"
    to those of a run that was never killed, or "different"."""
    moments, found, runs = random.Random(seed), Counter(), 0
    expected = train(folder / "whole", max_steps=steps)
    started = time.monotonic()
    killed(lambda: train(folder / "timed", max_steps=steps), 600)
    usual = time.monotonic() - started

    def are_left() -> int:
        return kills - found["before a checkpoint"] - found["after a checkpoint"]

    while are_left():
        run, step, runs = folder / str(runs), 0, runs + 1
        while step < steps and are_left():
            if killed(lambda run=run: train(run, max_steps=steps, resume=True), moments.uniform(0, 1.1 * usual)):
                found["after a checkpoint" if step else "before a checkpoint"] += 1
            step = (load_checkpoint(run / "checkpoint") or {"step": 0})["step"]
        weights = train(run, max_steps=steps, resume=True)
        found["equal" if all(torch.equal(value, expected[name]) for name, value in weights.items()) else "different"] += 1
    return found


KILLS = {"generate": kill_videos, "dub": kill_dubbing, "train": kill_training}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(KILLS))
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process with more than one must not fork
    started = time.monotonic()
    with TemporaryDirectory() as folder:
        found = KILLS[options.what](Path(folder), options.kills, options.seed)
    print(f"{options.what}: {options.kills} kills in {time.monotonic() - started:.0f} s:", dict(found))
    sys.exit(1 if found["broken"] or found["different"] or found["left"] else 0)


if __name__ == "__main__":
    main()
