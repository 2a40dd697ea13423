"""Kill a video or a training at random moments, by SIGKILL, which nobody can answer:

    python -m tests.kill_runs generate --kills 200
    python -m tests.kill_runs train --kills 200

A video of that name must always be the old one, whole, or the new one, whole; a training, resumed after each kill, must end in the very
weights of one that was never killed.  Prints how many kills came when, and ends with status 1 where that does not hold.
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

import torch

from temposync_pipeline.media.video import read_video

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
            assert status == 0, "it failed by itself"
            return False
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def kill_videos(folder: Path, kills: int, seed: int) -> Counter:
    """What stood under the final name after each kill: "old", "new" or, which must not be, "broken"; and "left", hidden files beside it."""
    pipeline, moments, found = tiny_pipeline(), random.Random(seed), Counter()
    output, speech = folder / "out.mp4", spoken(1.0)

    def make() -> None:
        pipeline.generate_to_file(picture(96, 96), speech, output, 1, progress=False)

    started = time.monotonic()
    killed(make, 600)
    usual, length = time.monotonic() - started, len(read_video(output)[0])
    while found.total() < kills:
        output.write_bytes(OLD)
        if not killed(make, moments.uniform(0, 1.1 * usual)):
            continue  # it was quicker than that
        content = output.read_bytes()
        whole = content != OLD and len(read_video(output)[0]) == length
        found["old" if content == OLD else "new" if whole else "broken"] += 1
    found["left"] = len(list(folder.iterdir())) - 1
    return found


def kill_training(folder: Path, kills: int, seed: int, steps: int = 24) -> Counter:
    """How many kills came before a checkpoint and after one, and whether the weights in the end are "equal" or "different"."""
    moments, found = random.Random(seed), Counter()
    started = time.monotonic()
    expected = train(folder / "whole", max_steps=steps)
    usual = time.monotonic() - started
    run = folder / "killed"
    while found.total() < kills:
        if killed(lambda: train(run, max_steps=steps, resume=True), moments.uniform(0, 1.1 * usual)):
            found["after a checkpoint" if (run / "checkpoint" / "state.pt").exists() else "before a checkpoint"] += 1
    weights = train(run, max_steps=steps, resume=True)
    found["equal" if all(torch.equal(value, expected[name]) for name, value in weights.items()) else "different"] = 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["generate", "train"])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process with more than one must not fork
    started = time.monotonic()
    with TemporaryDirectory() as folder:
        kill = kill_videos if options.what == "generate" else kill_training
        found = kill(Path(folder), options.kills, options.seed)
    print(f"{options.what}: {options.kills} kills in {time.monotonic() - started:.0f} s:", dict(found))
    sys.exit(1 if found["broken"] or found["different"] else 0)


if __name__ == "__main__":
    main()
