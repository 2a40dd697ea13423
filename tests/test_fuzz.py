"""A seeded share of `make fuzz`, and whether it would notice what it looks for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.media.video import read_video

from . import fuzz
from .fuzz import Target
from .fuzz import fuzz as run
from .fuzz_targets import video


def test_damaged_files_are_read_or_refused_in_one_sentence(tmp_path):
    """100,000 of them: two processes at a time, each on a core of its own (`fuzz.work`)."""
    commands = [[sys.executable, "-m", "tests.fuzz", "--cases", "50000", "--seconds", "300", "--seed", str(seed), "--failures",
                 tmp_path / f"kept{seed}"] for seed in (3, 4)]
    running = [subprocess.Popen(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
               for command in commands]
    outputs = [process.communicate()[0] for process in running]
    kept = "\n".join(path.read_text() for path in tmp_path.rglob("*.txt"))
    kinds = "audio, picture, video, config, weights, adapter, latents"
    for process, output in zip(running, outputs):
        assert process.returncode == 0 and f"cases of {kinds} in" in output, output + kept


def refuse(path):
    raise InvalidInputError(f"{path.name}: damaged")


def raise_another(path):
    raise KeyError(path.name)


def say_too_much(path):
    raise InvalidInputError(f"{path}: damaged")


def take_memory(path):
    np.ones(2**26)


def compute_forever(path):
    while True:
        pass


HARMS = {
    "KeyError at ?": raise_another, "message": say_too_much, "memory": take_memory, "hang": compute_forever,
    "wait": lambda path: time.sleep(60), "crash": lambda path: os.kill(os.getpid(), signal.SIGKILL),
}


@pytest.mark.parametrize("harm", HARMS)
def test_it_would_notice(tmp_path, monkeypatch, harm):
    """Every kind of harm is counted, the first inputs are kept as they were, and the cases after it are run."""
    if harm == "hang":
        monkeypatch.setattr(fuzz, "MAX_SECONDS", 0.5)
    if harm == "wait":
        monkeypatch.setattr(fuzz, "MAX_WAIT", 0.5)
    monkeypatch.setattr(fuzz, "KEPT_OF_A_KIND", 1)
    targets = {"good": Target(refuse, {"a.bin": b"good"}, 3), "bad": Target(HARMS[harm], {"b.bin": b"bad"})}
    count, failures = run(targets, 12, 60, 5, tmp_path / "kept")
    if harm == "memory":  # a peak is a peak once
        assert (count, dict(failures)) == (12, {"bad: memory": 1})
    else:
        assert (count, dict(failures)) == (12, {f"bad: {'hang' if harm == 'wait' else harm}": 3})
    assert (tmp_path / "kept" / "3_b.bin").read_bytes() == fuzz.make_case(targets, 5, 3).content
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_a_case_is_decided_by_seed_and_number():
    targets = {"a": Target(refuse, {"a.json": b'{"a": [1, 2]}', "b.wav": b"RIFF" * 9})}
    cases = [fuzz.make_case(targets, 1, number).content for number in range(40)]
    assert cases == [fuzz.make_case(targets, 1, number).content for number in range(40)] and len(set(cases)) > 30


def test_a_stream_that_turns_up_late_does_not_end_a_video(tmp_path):
    """Found by the fuzzing: padding that hides the sound while FFmpeg looks for streams, and a packet of it afterwards."""
    whole = video(tmp_path / "a.mpg", "mpeg1video")
    place = whole.index(b"\0\0\1\xbe") + 4
    hiding = bytes.fromhex("9288f75a4d20be70000001029399b693482e5250000001be")
    (tmp_path / "late.mpg").write_bytes(whole[:place] + 2 * hiding + whole[place:])
    with av.open(str(tmp_path / "late.mpg")) as container, pytest.raises(IndexError):
        list(container.demux(container.streams.video[0]))
    assert len(read_video(tmp_path / "late.mpg")[0]) == 6
