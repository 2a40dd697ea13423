import io
import json
import os
import shutil
import signal
import sys
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

from temposync_pipeline import cli
from temposync_pipeline.commands.live import Clock, SampleFormat, read_file, read_samples
from temposync_pipeline.media.live_video import LiveVideoWriter
from temposync_pipeline.media.planes import to_planes
from temposync_pipeline.media.video import read_tags
from temposync_pipeline.pipelines.live import LiveSession
from temposync_pipeline.pipelines.pipeline_temposync import TempoSyncPipeline
from temposync_pipeline.provenance.credentials import local_credentials, read_credentials

from .tiny_components import picture, spoken, tiny_pipeline

pytestmark = pytest.mark.makes_videos

SPEECH, RATE = spoken(0.8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", lambda name, **_: tiny_pipeline())
    Image.fromarray(picture(97, 80)).save(tmp_path / "portrait.png")
    wavfile.write(tmp_path / "speech.wav", RATE, np.rint(32767 * SPEECH).astype(np.int16))
    return tmp_path


@pytest.fixture
def said(monkeypatch):
    """Puts bytes on stdin."""

    def say(data):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False))

    return say


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(["live", *map(str, arguments)])
    return end.value.code or 0


@pytest.mark.parametrize("given, taken", [("auto", "torch"), ("onnxruntime", "onnxruntime")])
def test_auto_is_torch_for_few_frames_at_a_time(folder, monkeypatch, given, taken):
    asked = []
    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", lambda name, runtime: asked.append(runtime) or tiny_pipeline())
    files = ("--image", folder / "portrait.png", "--audio", folder / "speech.wav", "--output", folder / "out.mp4")
    assert run(*files, "--runtime", given) == 0
    assert asked == [taken]


def decoded(file):
    """Frames uint8 [T, H, W, 3] and samples [N]."""
    pictures, sound = [], [np.zeros(0, np.float32)]
    with av.open(file) as container:
        for frame in container.decode():
            if isinstance(frame, av.VideoFrame):
                pictures.append(frame.to_ndarray(format="rgb24"))
            else:
                sound.append(frame.to_ndarray()[0])
    return np.stack(pictures), np.concatenate(sound)


def test_raw_samples_become_a_video_with_their_sound(folder, said, capfdbinary):
    said(np.rint(32767 * SPEECH).astype("<i2").tobytes() + b"\1")  # half a sample at the end is none
    assert run("--image", folder / "portrait.png", "--json", folder / "live.json") == 0
    frames, sound = decoded(io.BytesIO(capfdbinary.readouterr().out))
    assert frames.shape == (20, 98, 80, 3)
    assert len(sound) == pytest.approx(len(SPEECH), abs=2048)
    delay = np.argmax(np.correlate(sound[:len(SPEECH)], SPEECH[:8000], mode="valid"))
    assert delay <= 1100 and sound.std() == pytest.approx(SPEECH.std(), rel=0.2)
    figures = json.loads((folder / "live.json").read_text())
    assert figures["frames"] == 20 and figures["look_ahead_ms"] == 200
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p95"] and figures["real_time_factor"] > 0


def test_a_file_gives_the_frames_of_the_stream(folder, capsys):
    output = folder / "live.mp4"
    assert run("--image", folder / "portrait.png", "--audio", folder / "speech.wav", "--output", output, "--look_ahead", 3) == 0
    assert capsys.readouterr().out.splitlines() == [str(output)]
    frames, _ = decoded(io.BytesIO(output.read_bytes()))
    wanted = np.concatenate(list(tiny_pipeline().stream(
        folder / "portrait.png", folder / "speech.wav", 1, torch.Generator().manual_seed(0), chunk_size=3, look_ahead=3)))
    assert np.abs(frames[:, :97].astype(int) - wanted).mean() < 4
    assert sorted(path.name for path in folder.iterdir()) == ["live.mp4", "portrait.png", "speech.wav"]


def test_a_file_is_signed_and_a_stream_is_not(folder, said, capfdbinary, monkeypatch):
    pytest.importorskip("c2pa")
    given = ("--image", folder / "portrait.png", "--audio", folder / "speech.wav")
    assert run(*given, "--output", folder / "live.mp4") == 0 and run(*given, "--no-provenance", "--output", folder / "plain.mp4") == 0
    found = read_credentials(folder / "live.mp4")
    assert found["state"] == "Valid" and found["source_type"] == "trainedAlgorithmicMedia" and found["model"]
    assert read_credentials(folder / "plain.mp4") == {"found": False, "state": "none"}
    assert all(read_tags(folder / name)["comment"].startswith("AI-generated") for name in ("live.mp4", "plain.mp4"))
    assert len(decoded(io.BytesIO((folder / "live.mp4").read_bytes()))[0]) == 20
    capfdbinary.readouterr()
    assert run(*given) == 0
    (folder / "stream.mp4").write_bytes(capfdbinary.readouterr().out)
    assert read_credentials(folder / "stream.mp4") == {"found": False, "state": "none"}


def test_a_key_of_ones_own_signs_a_file_alone(folder, capsys):
    pytest.importorskip("c2pa")
    key = folder / "key.pem"
    own = local_credentials()
    key.write_bytes(own.key + own.certificates)
    given = ("--image", folder / "portrait.png", "--audio", folder / "speech.wav", "--signing-cert", key, "--signing-key", key)
    assert run(*given, "--output", folder / "live.mp4") == 0 and read_credentials(folder / "live.mp4")["found"]
    capsys.readouterr()
    assert run(*given) == 2
    assert "a stream cannot be signed" in capsys.readouterr().err
    assert run(*given, "--output", key.with_suffix(".mp4"), "--json", key) == 2 and key.read_bytes() == own.key + own.certificates


def test_what_was_said_is_kept_where_it_cannot_be_signed(folder, capsys, monkeypatch):
    pytest.importorskip("c2pa")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("temposync_pipeline.provenance.credentials.Credentials.sign", full)
    output = folder / "live.mp4"
    assert run("--image", folder / "portrait.png", "--audio", folder / "speech.wav", "--output", output) == 2
    error, = capsys.readouterr().err.splitlines()
    assert error == f"temposync: {output}: kept without content credentials: No space left on device"
    assert len(decoded(io.BytesIO(output.read_bytes()))[0]) == 20
    assert sorted(path.name for path in folder.iterdir()) == ["live.mp4", "portrait.png", "speech.wav"]


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_a_closed_stream_is_told(folder, said, capsys, monkeypatch, stream):
    said(b"")
    monkeypatch.setattr(sys, stream, None)
    assert run("--image", folder / "portrait.png", *(("--output", folder / "live.mp4") if stream == "stdin" else ())) == 2
    error, = capsys.readouterr().err.splitlines()
    assert error.startswith(f"temposync: {stream} is closed")


SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@SIGNALS
def test_ctrl_c_and_sigterm_end_the_video_and_keep_it(folder, monkeypatch, number):
    def interrupted(path, real_time):
        yield SPEECH[:6400, None], RATE
        os.kill(os.getpid(), number)

    monkeypatch.setattr("temposync_pipeline.commands.live.read_file", interrupted)
    assert run("--image", folder / "portrait.png", "--audio", folder / "speech.wav", "--output", folder / "live.mp4") == 0
    assert len(decoded(io.BytesIO((folder / "live.mp4").read_bytes()))[0]) == 10


@SIGNALS
def test_a_signal_at_the_end_of_the_sound_loses_nothing(folder, monkeypatch, number):
    flush = LiveSession.flush

    def interrupted(session):
        os.kill(os.getpid(), number)
        return flush(session)

    monkeypatch.setattr(LiveSession, "flush", interrupted)
    assert run("--image", folder / "portrait.png", "--audio", folder / "speech.wav", "--output", folder / "live.mp4") == 0
    assert len(decoded(io.BytesIO((folder / "live.mp4").read_bytes()))[0]) == 20


@SIGNALS
def test_a_signal_in_the_middle_of_the_work_loses_no_frame(folder, monkeypatch, number):
    push, heard = LiveSession.push, []

    def interrupted(session, samples, rate):
        frames = push(session, samples, rate)
        heard.append(len(samples) / rate)
        if frames:  # made, and not yet written
            os.kill(os.getpid(), number)
        return frames

    monkeypatch.setattr(LiveSession, "push", interrupted)
    assert run("--image", folder / "portrait.png", "--audio", folder / "speech.wav", "--output", folder / "live.mp4") == 0
    frames, sound = decoded(io.BytesIO((folder / "live.mp4").read_bytes()))
    # Chunks of 3 frames, 5 of look-ahead: so much at least has been heard when the first of them is there.
    assert len(frames) == round(25 * sum(heard)) >= 8 and len(sound) == pytest.approx(len(frames) * RATE / 25, abs=2048)


@pytest.mark.parametrize("arguments, message", [
    ((), "no sound came"), (("--rate", 10), "sampling rate 10 Hz, outside the limits"), (("--output", "x.avi"), "must end in .mp4"),
    (("--audio", "missing.wav"), "missing.wav: no such file"), (("--steps", 9), "a student takes 1 to 8"), (("--format", "s24le"), "s24le"),
])
def test_what_cannot_be_done_is_said_in_one_line(folder, said, capsys, monkeypatch, arguments, message):
    said(b"")
    monkeypatch.chdir(folder)
    assert run("--image", "portrait.png", *arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and message in errors[0]


def test_every_frame_leaves_with_the_next_one_and_at_its_time():
    levels, written = [40 * index for index in range(6)], io.BytesIO()
    pipe = SimpleNamespace(write=written.write, flush=lambda: None)
    with LiveVideoWriter(pipe, 48, 64) as writer:
        writer.hear(np.zeros(16_000, np.float32))
        for count, level in enumerate(levels):
            writer.write_planes(to_planes(np.full((64, 48, 3), level, np.uint8)))
            if count:
                frames, _ = decoded(io.BytesIO(written.getvalue()))
                assert np.abs(frames[:, 32, 24, 0].astype(int) - levels[:count]).max() < 8
    written.seek(0)
    with av.open(written) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx([index / 25 for index in range(6)])


def test_who_stops_watching_ends_it(folder, said, monkeypatch):
    def gone(data):
        raise BrokenPipeError

    said(np.zeros(16_000, np.int16).tobytes())
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=SimpleNamespace(write=gone, flush=lambda: None), isatty=lambda: False))
    assert run("--image", folder / "portrait.png") == 0


@pytest.mark.parametrize("output", ["stdout", "file"])
def test_a_full_disk_is_told_by_the_name_of_what_is_full(folder, said, monkeypatch, capsys, output):
    def full(*_):
        raise OSError(28, "No space left on device")

    said(np.zeros(16_000, np.int16).tobytes())
    if output == "stdout":
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(
            buffer=SimpleNamespace(write=full, flush=lambda: None), isatty=lambda: False, flush=lambda: None))
    monkeypatch.setattr("temposync_pipeline.media.live_video._Outlet.write", full)
    given = () if output == "stdout" else ("--output", folder / "live.mp4")
    assert run("--image", folder / "portrait.png", *given) == 2
    name = "standard output" if output == "stdout" else folder / "live.mp4"
    assert capsys.readouterr().err == f"temposync: {name}: No space left on device\n"
    assert sorted(path.name for path in folder.iterdir()) == ["portrait.png", "speech.wav"]


def test_a_folder_that_went_while_one_spoke_is_told_by_the_name_asked_for(folder, said, monkeypatch, capsys):
    said(np.zeros(16_000, np.int16).tobytes())
    output = folder / "videos" / "live.mp4"
    output.parent.mkdir()
    flush = LiveSession.flush
    monkeypatch.setattr(LiveSession, "flush", lambda session: shutil.rmtree(output.parent) or flush(session))
    assert run("--image", folder / "portrait.png", "--output", output) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"temposync: {output}: No such file or directory"  # maybe after "late"


def test_samples_on_stdin_in_any_format():
    wave = np.sin(np.arange(60)).reshape(30, 2)
    for kind, scale in ((SampleFormat.s16le, 32767), (SampleFormat.s32le, 2**31 - 1), (SampleFormat.f32le, 1), (SampleFormat.u8, 127)):
        numbers = scale * wave + 128 * (kind == SampleFormat.u8)
        data = numbers.astype({"s16le": "<i2", "s32le": "<i4", "f32le": "<f4", "u8": "u1"}[kind.value]).tobytes()
        file = io.BytesIO(data)
        slow = SimpleNamespace(read1=lambda size, file=file: file.read(7))
        pieces = [piece for piece, rate in read_samples(slow, 8000, kind, 2) if rate == 8000]
        assert np.array_equal(np.concatenate(pieces).tobytes(), data)


def test_a_file_is_read_no_faster_than_it_is_spoken(folder, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("temposync_pipeline.commands.live.time", SimpleNamespace(
        perf_counter=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds)))
    heard = 0
    for piece, rate in read_file(folder / "speech.wav", real_time=True):
        assert len(piece) <= 320 and now[0] == pytest.approx(heard / rate)
        heard += len(piece)
    assert heard == len(SPEECH)


def test_a_recording_that_is_read_faster_than_it_was_spoken_is_not_late(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr("temposync_pipeline.commands.live.time", SimpleNamespace(perf_counter=lambda: now[0]))
    clock = Clock()
    now[0] += 0.5  # networks are loaded
    for second in range(2, 21, 2):  # pieces of two seconds
        with clock.working(second):
            now[0] += 1
            clock.shown(second - 2)
    assert not clock.is_live and not caplog.records
    clock = Clock()
    for second in range(2, 21, 2):  # spoken meanwhile, and this machine takes three seconds for two
        now[0] += 1 if second > 2 else 2
        with clock.working(second):
            now[0] += 3
            clock.shown(second - 2)
    assert clock.is_live and len(caplog.records) == 1 and "too slow" in caplog.records[0].getMessage()


def test_sound_from_a_file_on_stdin_has_no_latency(folder, said, caplog, capfdbinary):
    said(np.rint(32767 * np.tile(SPEECH, 8)).astype("<i2").tobytes())
    assert run("--image", folder / "portrait.png", "--json", folder / "live.json") == 0
    figures = json.loads((folder / "live.json").read_text())
    assert "latency_ms" not in figures and figures["frames"] == 160 and not caplog.records


def test_the_clock_counts_from_when_a_frame_was_spoken(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("temposync_pipeline.commands.live.time", SimpleNamespace(perf_counter=lambda: now[0]))
    clock = Clock()
    for index in range(1, 41):
        now[0] = 5 + index / 50 + 0.1 * (index % 10 == 0)  # every tenth piece waits to be read
        with clock.working(index / 50):
            now[0] += 0.003
            if index > 10:
                clock.shown((index - 10) / 50)
    assert clock.latency() == {"p50": 203, "p95": 303}
    assert clock.busy == pytest.approx(0.12)
