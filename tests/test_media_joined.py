"""Recordings whose files were simply joined, broken off, or given headers that lie: all that is there is heard, and nothing else."""

import io
import struct
from functools import partial

import av
import numpy as np
import pytest

from temposync_pipeline.errors import InvalidAudioError
from temposync_pipeline.media.audio import load_audio

from .conftest import make_sounds, tone
from .test_media_audio import spectrum_peak

FORMATS = [
    ("a.webm", 48_000, "libopus"), ("a.mka", 16_000, "flac"), ("a.m4a", 44_100, "aac"), ("a.mov", 16_000, "pcm_s16le"),
    ("a.3gp", 8_000, "libopencore_amrnb"), ("a.aiff", 16_000, "pcm_s16be"), ("a.au", 16_000, "pcm_s16be"), ("a.tta", 16_000, "tta"),
    ("a.wma", 16_000, "wmav2"), ("a.amr", 8_000, "libopencore_amrnb"), ("a.ogg", 48_000, "libopus"), ("a.flac", 16_000, "flac"),
    ("a.mp3", 44_100, "libmp3lame"), ("a.aac", 44_100, "aac"), ("a.ts", 44_100, "aac"),
    ("a.caf", 16_000, "pcm_s16le"), ("a.wv", 16_000, "wavpack"), ("a.w64", 16_000, "pcm_s16le"),
]


def skip_without(codec: str) -> None:
    """PyAV 19's FFmpeg writes no AMR."""
    try:
        av.Codec(codec, "w")
    except ValueError:
        pytest.skip(f"this PyAV writes no {codec}")


@pytest.mark.parametrize(("name", "rate", "codec"), FORMATS, ids=lambda value: str(value))
def test_joined_files_are_read_one_after_the_other(tmp_path, caplog, name, rate, codec):
    skip_without(codec)
    pitches = (400, 800, 1600)
    files = [make_sounds(tmp_path, partial(tone, hertz=hertz))(name, 1.0, rate, codec=codec).read_bytes() for hertz in pitches]
    (tmp_path / name).write_bytes(b"".join(files))
    audio = load_audio(tmp_path / name)
    assert audio.duration == pytest.approx(3, abs=0.35)
    assert [spectrum_peak(part[3200:-4800]) for part in np.array_split(audio.samples, 3)] == pytest.approx(pitches, rel=0.02)
    if codec in ("pcm_s16be", "pcm_s16le", "flac", "tta", "wavpack"):
        assert np.abs(audio.samples).max() < 0.55  # no header was taken for sound
        assert audio.duration == pytest.approx(3)


def test_what_is_written_about_an_mp3_amid_the_sound_is_no_damage(tmp_path, make_audio, caplog):
    one = make_audio("one.mp3", 1.0, 44_100, codec="libmp3lame")
    assert one.read_bytes()[:3] == b"ID3"
    ending = b"TAG" + 125 * b" "  # ID3v1
    (tmp_path / "two.mp3").write_bytes(one.read_bytes() + ending + one.read_bytes() + ending)
    assert load_audio(tmp_path / "two.mp3").duration == pytest.approx(2 * load_audio(one).duration, abs=0.09)
    assert not caplog.records


def test_recordings_of_several_rates_in_one_file(tmp_path, caplog):
    rates, pitches = (16_000, 44_100, 8_000), (400, 800, 1600)
    files = [make_sounds(tmp_path, partial(tone, hertz=hertz))("a.wav", 1.0, rate).read_bytes()
             for rate, hertz in zip(rates, pitches, strict=True)]
    (tmp_path / "a.wav").write_bytes(b"".join(files))
    audio = load_audio(tmp_path / "a.wav")
    assert audio.duration == pytest.approx(3, abs=0.01) and audio.source_rate == 16_000
    assert [spectrum_peak(part[1600:-1600]) for part in np.array_split(audio.samples, 3)] == pytest.approx(pitches, rel=0.02)
    assert [record.getMessage() for record in caplog.records] == ["a.wav: 3 WAV files in one; all of them were read"]


def test_that_several_were_joined_is_said(tmp_path, make_audio, caplog):
    (tmp_path / "b.webm").write_bytes(2 * make_audio("a.webm", rate=48_000, codec="libopus").read_bytes())
    load_audio(tmp_path / "b.webm")
    assert [record.getMessage() for record in caplog.records] == ["b.webm: 2 recordings in one file; all of them were read"]


@pytest.mark.parametrize("announced", [2_000_000_000, 2**32 - 1])
def test_placeholders_of_other_formats_are_no_alarm(tmp_path, make_audio, caplog, announced):
    path = make_audio("a.au")
    content = path.read_bytes()
    path.write_bytes(content[:8] + struct.pack(">I", announced) + content[12:])
    assert load_audio(path).duration == 1 and not caplog.records


@pytest.mark.parametrize(("name", "codec"), [("a.caf", "pcm_s16le"), ("a.mka", "flac"), ("a.au", None), ("a.tta", None)])
def test_a_recording_that_breaks_off_is_said(make_audio, caplog, name, codec):
    path = make_audio(name, seconds=3, codec=codec)
    content = path.read_bytes()
    assert load_audio(path).duration == 3 and not caplog.records
    path.write_bytes(content[:len(content) * 6 // 10])
    assert 0.9 < load_audio(path).duration < 2
    assert f"{name}: truncated" in caplog.text


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.mov", "alac"), ("a.3gp", "libopencore_amrnb")])
def test_a_phone_recording_without_its_index_says_so(make_audio, name, codec):
    skip_without(codec)
    path = make_audio(name, rate=8000, seconds=2, codec=codec)
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(InvalidAudioError, match=f"^{name}: breaks off before the end of its index"):
        load_audio(path)


def test_a_header_that_points_before_the_beginning(make_audio, capfd):
    """FFmpeg follows it, and must not meet an exception there."""
    path = make_audio("a.caf", seconds=3, codec="pcm_s16le")
    content = path.read_bytes()
    place = content.index(b"data") + 4
    for announced in range(20_000, 20_400, 2):
        path.write_bytes(content[:place] + struct.pack(">q", announced) + content[place + 8:])
        try:
            assert load_audio(path).duration > 0.5
        except InvalidAudioError:
            pass
    assert "Traceback" not in capfd.readouterr().err


# Where a header tells the length of the sound: (file, codec, name of the chunk, bytes from there to the size, its form, added to the size).
SIZES = [("a.aiff", "pcm_s16be", b"SSND", 4, ">I", 8), ("a.w64", "pcm_s16le", b"data\xf3", 16, "<Q", 24),
         ("a.caf", "pcm_s16le", b"data", 4, ">Q", 4)]


@pytest.mark.parametrize(("name", "codec", "chunk", "place", "form", "more"), SIZES, ids=[size[0] for size in SIZES])
@pytest.mark.parametrize("share", ["a quarter", "nothing", "unknown"])
def test_a_header_that_covers_less_than_there_is(make_audio, caplog, share, name, codec, chunk, place, form, more):
    path = make_audio(name, seconds=4, codec=codec)
    content, sound = bytearray(path.read_bytes()), load_audio(path).samples
    announced = {"a quarter": 32_000 + more, "nothing": 0, "unknown": 2_000_000_000}[share]
    struct.pack_into(form, content, content.index(chunk) + place, announced)
    path.write_bytes(content)
    assert np.array_equal(load_audio(path).samples, sound)
    said = [f"{name}: the header speaks of 32000 bytes of sound, 128000 are there and were read"]
    assert [record.getMessage() for record in caplog.records] == (said if share == "a quarter" else [])


@pytest.mark.parametrize(("name", "codec", "after"), [
    ("a.aiff", "pcm_s16be", b"ANNO" + struct.pack(">I", 20_000) + 20_000 * b"x"),
    ("a.caf", "pcm_s16le", b"free" + struct.pack(">q", 20_001) + 20_001 * b"x")])
def test_chunks_behind_the_sound_are_no_sound(make_audio, caplog, name, codec, after):
    path = make_audio(name, seconds=2, codec=codec)
    path.write_bytes(path.read_bytes() + after)
    assert load_audio(path).duration == 2 and not caplog.records


def test_an_au_whose_length_is_not_known(make_audio, caplog):
    path = make_audio("a.au")
    content = path.read_bytes()
    path.write_bytes(content[:8] + bytes(4) + content[12:])
    assert load_audio(path).duration == 1 and not caplog.records


class Pipe(io.RawIOBase):
    """What is written can only be added to."""

    def __init__(self):
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.content += bytes(data)
        return len(data)


@pytest.mark.parametrize(("name", "codec"), [
    ("a.aiff", "pcm_s16be"), ("a.w64", "pcm_s16le"), ("a.caf", "pcm_s16le"), ("a.au", "pcm_s16be"), ("a.wav", "pcm_s16le")])
def test_what_ffmpeg_writes_into_a_pipe(tmp_path, caplog, name, codec):
    """The first two it cannot read itself: their headers say 0."""
    pipe = Pipe()
    with av.open(pipe, "w", format=name[2:]) as container:
        stream = container.add_stream(codec, rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, 16_000), 1000, np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame) + stream.encode(None))
    (tmp_path / name).write_bytes(pipe.content)
    audio = load_audio(tmp_path / name)
    assert audio.duration == 1 and np.allclose(audio.samples, 1000 / 2**15) and not caplog.records
