"""Ctrl-C and SIGTERM amid the libraries that would swallow them (`temposync_pipeline.interrupts`)."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BufferedReader, FileIO
from pathlib import Path

import av
import numpy as np
import pytest

from temposync_pipeline.interrupts import interrupts_held
from temposync_pipeline.media import container
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.media.footage import Footage
from temposync_pipeline.media.video import VideoWriter, read_video
from temposync_pipeline.provenance import credentials
from temposync_pipeline.provenance.origin import Origin

from .test_media_audio import pcm, wav
from .tiny_components import picture, spoken


@pytest.fixture(autouse=True)
def hearing_interrupts() -> Iterator[None]:
    """Where the tests are a shell's background job, Python starts with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def film(tmp_path) -> Path:
    with VideoWriter(tmp_path / "film.mp4", audio_path=wav(tmp_path / "speech.wav", pcm(spoken(0.4)[0]))) as writer:
        for _ in range(10):
            writer.write(picture(96, 80))
    return tmp_path / "film.mp4"


@pytest.fixture
def interrupt_at(monkeypatch) -> Callable[[int], list[int]]:
    """Presses Ctrl-C in the n-th call that FFmpeg makes of Python; the list counts them."""
    calls = [0]

    def interrupt_at(number: int) -> list[int]:
        calls[0] = 0
        for name in ("read", "seek"):
            monkeypatch.setattr(container._Input, name, interrupting(originals[name], number))
        return calls

    def interrupting(method: Callable, number: int) -> Callable:
        def call(*arguments):
            calls[0] += 1
            if calls[0] == number:
                signal.raise_signal(signal.SIGINT)
            return method(*arguments)
        return call

    originals = {name: getattr(container._Input, name) for name in ("read", "seek")}
    return interrupt_at


READERS = {"sound": load_audio, "pictures": read_video, "a film to dub": lambda path: list(Footage(path).frames(0.4))}


@pytest.mark.parametrize("reader", READERS)
def test_whenever_it_comes_reading_a_file_ends(film, interrupt_at, reader):
    """Without `interrupts_held` every one of them is lost, and some shorten what is read."""
    read, calls = READERS[reader], interrupt_at(0)
    read(film)
    for number in range(1, calls[0] + 1):
        interrupt_at(number)
        with pytest.raises(KeyboardInterrupt):
            read(film)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_amid_a_resampler_it_ends_the_video(tmp_path, film, monkeypatch, number):
    """PyAV loses some exceptions there by chance (findings/pyav_loses_interrupts.sh), this one all of them."""
    class Resampler:
        def __init__(self, **form):
            self._resampler = av.audio.resampler.AudioResampler(**form)

        def resample(self, frame):
            with suppress(KeyboardInterrupt):
                signal.raise_signal(number)
            return self._resampler.resample(frame)

    def end(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(av, "AudioResampler", Resampler)
    before = signal.signal(number, end)
    try:
        with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "b.mp4", audio_path=film.parent / "speech.wav") as writer:
            writer.write(picture(96, 80))
    finally:
        signal.signal(number, before)
    assert not (tmp_path / "b.mp4").exists()


def test_amid_content_credentials_it_ends(film, monkeypatch):
    """c2pa calls Python through ctypes, which prints exceptions and goes on."""
    pytest.importorskip("c2pa")
    credentials.local_credentials().sign(film, Origin("a model", None, picture(), np.eye(2, 3)))
    assert credentials.read_credentials(film)["found"]

    class File(FileIO):
        reads = 0

        def readinto(self, buffer):
            File.reads += 1
            if File.reads == 3:
                signal.raise_signal(signal.SIGINT)
            return super().readinto(buffer)

    monkeypatch.setattr(credentials, "open", lambda path, mode: BufferedReader(File(path, mode)), raising=False)
    with pytest.raises(KeyboardInterrupt):
        credentials.read_credentials(film)


def test_signals_come_in_their_turn_and_handlers_stay():
    came: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append("ended"))
    interrupts = signal.getsignal(signal.SIGINT)
    try:
        with interrupts_held():
            with interrupts_held():
                signal.raise_signal(signal.SIGTERM)
            assert came == []  # the outer one goes on
        assert came == ["ended"] and signal.getsignal(signal.SIGINT) is interrupts
        with pytest.raises(KeyboardInterrupt) as ended, interrupts_held():  # an error at the same time is no reason to go on
            signal.raise_signal(signal.SIGINT)
            raise ValueError("no video")
        assert isinstance(ended.value.__context__, ValueError)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_hold_nothing():
    held: list[object] = []

    def work():
        with interrupts_held():
            held.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert held == [signal.getsignal(signal.SIGINT)]
