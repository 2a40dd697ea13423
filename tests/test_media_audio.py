import struct

import av
import numpy as np
import pytest
from scipy.signal import correlate

from temposync_pipeline.errors import InvalidAudioError
from temposync_pipeline.media import audio
from temposync_pipeline.media.audio import SAMPLE_RATE, full_scale, load_audio

from .conftest import tone


def wav(path, data: bytes, *, rate=16_000, channels=1, bits=16, kind=1, announced=None):
    """A WAV whose header says what the test wants."""
    size = len(data) if announced is None else announced
    header = struct.pack("<HHIIHH", kind, channels, rate, rate * channels * bits // 8 % 2**32, channels * bits // 8 % 2**16, bits)
    riff = b"RIFF" + struct.pack("<I", min(36 + size, 2**32 - 1)) + b"WAVEfmt \x10\0\0\0"
    path.write_bytes(riff + header + b"data" + struct.pack("<I", size) + data)
    return path


def pcm(samples: np.ndarray) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


def spectrum_peak(samples: np.ndarray) -> float:
    """Frequency in Hz of the strongest component."""
    return np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * SAMPLE_RATE / len(samples)


@pytest.mark.parametrize(("name", "rate", "layout", "codec", "channels"), [
    ("a.wav", 44_100, "stereo", None, 2),
    ("a.wav", 96_000, "mono", "pcm_s24le", 1),
    ("a.wav", 8_000, "5.1", "pcm_f64le", 6),
    ("a.wav", 11_025, "mono", "pcm_u8", 1),
    ("a.wav", 8_000, "mono", "pcm_mulaw", 1),
    ("a.mp3", 44_100, "stereo", None, 2),
    ("a.flac", 48_000, "stereo", None, 2),
    ("a.m4a", 44_100, "mono", None, 1),
    ("a.aac", 22_050, "stereo", None, 2),
    ("a.ogg", 48_000, "mono", None, 1),
    ("a.opus", 48_000, "stereo", None, 2),
    ("a.wma", 16_000, "mono", None, 1),
    ("a.wma", 44_100, "stereo", None, 2),
    ("a.ac3", 48_000, "5.1", None, 6),
    ("a.au", 22_050, "mono", None, 1),
    ("a.tta", 44_100, "stereo", None, 2),
    ("a.wv", 32_000, "mono", None, 1),
])
def test_any_format_becomes_16_khz_mono(make_audio, name, rate, layout, codec, channels):
    path = make_audio(name, seconds=1, rate=rate, layout=layout, codec=codec)
    audio = load_audio(path)
    assert (audio.source_rate, audio.source_channels, audio.path) == (rate, channels, path)
    assert audio.samples.dtype == np.float32 and audio.samples.ndim == 1
    assert audio.duration == pytest.approx(1, abs=0.1)
    assert len(audio.samples) == pytest.approx(audio.duration * SAMPLE_RATE, abs=2)
    middle = audio.samples[3200:12800]
    assert spectrum_peak(middle) == pytest.approx(440, abs=3)
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


def test_pcm_is_exact(tmp_path):
    samples = tone(0.5, 16_000)
    audio = load_audio(wav(tmp_path / "a.wav", pcm(samples)))
    np.testing.assert_allclose(audio.samples, samples, atol=1e-4)


@pytest.mark.parametrize("shape", ["mono", "channels first", "channels last"])
def test_array(shape):
    samples = tone(0.5, 44_100)
    array = {"mono": samples, "channels first": np.stack([samples, samples]), "channels last": np.stack([samples, samples], 1)}[shape]
    audio = load_audio((array, 44_100))
    assert audio.duration == pytest.approx(0.5) and audio.path is None
    assert spectrum_peak(audio.samples) == pytest.approx(440, abs=3)


def test_integer_array_is_scaled():
    audio = load_audio(((tone(0.2, 16_000) * 32768).astype(np.int16), 16_000))
    assert np.abs(audio.samples).max() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("announced", [0, 2**32 - 1])
def test_wrong_data_length_loses_nothing(tmp_path, announced):
    audio = load_audio(wav(tmp_path / "a.wav", pcm(tone(1, 16_000)), announced=announced))
    assert audio.duration == 1


def test_truncated_files_give_what_is_there_and_warn(tmp_path, make_audio, caplog):
    path = wav(tmp_path / "cut.wav", pcm(tone(1, 16_000)))
    path.write_bytes(path.read_bytes()[:20_044])
    assert load_audio(path).duration == pytest.approx(0.625, abs=0.01)
    flac = make_audio("cut.flac", seconds=2, rate=44_100)
    flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
    assert 0.2 < load_audio(flac).duration < 1.5
    assert "cut.wav: truncated" in caplog.text and "cut.flac: truncated" in caplog.text


def test_whole_files_do_not_warn(tmp_path, make_audio, caplog):
    load_audio(wav(tmp_path / "a.wav", pcm(tone(0.5, 16_000))))
    for name in ("a.flac", "a.mp3", "a.m4a", "a.ogg", "a.ac3", "a.au", "a.tta", "a.wv"):
        load_audio(make_audio(name, rate=48_000))
    assert not caplog.text


def test_samples_that_are_not_finite_become_silence(tmp_path, caplog):
    samples = tone(0.5, 16_000)
    samples[100:200], samples[300:310], samples[400] = np.nan, np.inf, 1e30
    audio = load_audio(wav(tmp_path / "a.wav", samples.astype("<f4").tobytes(), bits=32, kind=3))
    assert np.isfinite(audio.samples).all() and np.abs(audio.samples).max() <= 1
    assert not audio.samples[100:200].any()
    assert "110 samples are not finite" in caplog.text


def lose_packets(path, codec: str, lost: range, seconds: float = 3.0, rate: int = 48_000):
    """A rising tone of which some packets never arrived; returns the path."""
    rising = 0.5 * np.sin(2 * np.pi * np.cumsum(np.linspace(200, 2000, round(seconds * rate))) / rate)
    frame = av.AudioFrame.from_ndarray(rising.astype(np.float32)[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = rate, 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(stream.format.name, "mono", rate, frame_size=stream.codec_context.frame_size)
        pieces = [*resampler.resample(frame), *resampler.resample(None), None]
        for index, packet in enumerate(packet for piece in pieces for packet in stream.encode(piece)):
            if index not in lost:
                container.mux(packet)
    return path


@pytest.mark.parametrize(("name", "codec", "packet"), [
    ("a.webm", "libopus", 0.02), ("a.mka", "libopus", 0.02), ("a.m4a", "aac", 1024 / 48_000), ("a.mkv", "aac", 1024 / 48_000),
])
@pytest.mark.parametrize("lost", [range(50, 51), range(40, 90)], ids=["one packet", "a second"])
def test_lost_packets_leave_silence_and_all_else_in_its_place(tmp_path, caplog, name, codec, packet, lost):
    audio = load_audio(lose_packets(tmp_path / name, codec, lost))
    whole = load_audio(lose_packets(tmp_path / f"whole_{name}", codec, range(0)))
    assert audio.duration == pytest.approx(whole.duration, abs=0.002)
    start, end = (int(SAMPLE_RATE * packet * index) for index in (lost.start, lost.stop))
    gap = np.flatnonzero(np.abs(np.diff(audio.samples)) < 1e-6)
    gap = gap[(gap > start - 800) & (gap < end + 800)]
    assert len(gap) == pytest.approx(end - start, abs=SAMPLE_RATE // 50)
    # Time stamps in whole milliseconds place it no better than that.
    after = slice(end + SAMPLE_RATE // 5, int(2.8 * SAMPLE_RATE))
    lag = np.argmax(correlate(audio.samples[after], whole.samples[after], "same")) - (after.stop - after.start) // 2
    assert abs(lag) <= SAMPLE_RATE // 1000
    assert len(caplog.records) == 1 and f"{packet * len(lost):.2f}"[:3] in caplog.text


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a", "a.ogg", "a.flac"])
def test_a_first_time_stamp_above_zero_is_no_silence(make_audio, name):
    """An mp3's is its decoder's delay."""
    assert np.abs(load_audio(make_audio(name, rate=48_000)).samples[:400]).max() > 0.2


@pytest.mark.parametrize(("magic", "speech", "comfort", "samples"), [
    (b"#!AMR\n", bytes([0x3C]) + bytes(range(7, 38)), bytes([0x44, 1, 2, 3, 4, 5]), 160),
    (b"#!AMR-WB\n", bytes([0x14]) + bytes(range(3, 35)), bytes([0x4C, 1, 2, 3, 4, 5]), 320),
], ids=["narrow band", "wide band"])
def test_pauses_of_a_phone_memo_keep_their_length(tmp_path, caplog, magic, speech, comfort, samples):
    """Telephone codecs send comfort noise, or nothing, while nobody speaks."""
    nothing = b"\x7c"
    talk, pause = 50 * speech, comfort + 20 * nothing + comfort + 28 * nothing
    (tmp_path / "memo.amr").write_bytes(magic + pause + talk + pause + talk + pause)
    audio = load_audio(tmp_path / "memo.amr")
    assert audio.duration == pytest.approx(250 * samples / audio.source_rate) and not caplog.records
    loud = np.abs(audio.samples).reshape(5, -1)[:, 800:-800].max(1) > 0.001
    assert loud.tolist() == [False, True, False, True, False]


@pytest.mark.parametrize(("scale", "divisor"), [(4.0, 2.0), (1.5, 0.75), (32_000.0, 32_768.0)])
@pytest.mark.parametrize("form", ["array", "f32", "f64"])
def test_floats_above_full_scale_are_scaled_not_clipped(tmp_path, caplog, scale, divisor, form):
    samples = scale * tone(1, 16_000)
    types = {"f32": ("<f4", 32), "f64": ("<f8", 64)}
    source = (samples, 16_000) if form == "array" else wav(
        tmp_path / "a.wav", samples.astype(types[form][0]).tobytes(), bits=types[form][1], kind=3)
    np.testing.assert_allclose(load_audio(source).samples, samples / max(divisor, 1), atol=1e-4)
    assert len(caplog.records) == (divisor > 1)
    assert full_scale(source) == pytest.approx(max(divisor, 1), rel=1e-4)


def test_one_broken_sample_does_not_set_the_scale():
    samples = tone(1, 16_000)
    samples[5000] = 1e20
    assert np.abs(load_audio((samples, 16_000)).samples).max() == pytest.approx(0.5, abs=0.01)


def test_what_is_not_audio(tmp_path):
    contents = {
        "empty.wav": b"", "cut.wav": b"RIFF\0\0", "text.wav": b"hello " * 500, "noise.mp3": bytes(range(256)) * 8,
        "header.wav": wav(tmp_path / "header.wav", b"").read_bytes(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidAudioError, match=name) as error:
            load_audio(tmp_path / name)
        assert str(tmp_path) not in str(error.value)
    with pytest.raises(InvalidAudioError):
        load_audio(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_audio(tmp_path / "missing.wav")


@pytest.mark.parametrize("playlist", [
    "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
    "ffconcat version 1.0\nfile '{}'\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n",
])
@pytest.mark.parametrize("name", ["list.m3u8", "list.wav"])
def test_playlists_open_nothing(tmp_path, make_audio, playlist, name):
    canary = make_audio("canary.wav")
    (tmp_path / name).write_text(playlist.format(canary))
    with pytest.raises(InvalidAudioError):
        load_audio(tmp_path / name)


@pytest.mark.parametrize(("header", "found"), [
    ({"rate": 1}, "1 Hz"), ({"rate": 2_000_000}, "2000000 Hz"), ({"channels": 255}, "255 channels"),
])
def test_limits_of_the_format(tmp_path, header, found):
    with pytest.raises(InvalidAudioError, match=found):
        load_audio(wav(tmp_path / "a.wav", bytes(51_000), **header))


@pytest.mark.parametrize("header", [{"rate": 0}, {"rate": 2**32 - 1}, {"channels": 0}, {"channels": 65_535}])
def test_impossible_formats(tmp_path, header):
    with pytest.raises(InvalidAudioError):
        load_audio(wav(tmp_path / "a.wav", bytes(51_000), **header))


def test_limits_of_the_length(tmp_path):
    with pytest.raises(InvalidAudioError, match="0.010 s long, shorter than the limit of 0.1 s"):
        load_audio(wav(tmp_path / "a.wav", pcm(tone(0.01, 16_000))))
    with pytest.raises(InvalidAudioError, match="longer than the limit of 0.5 s"):
        load_audio(wav(tmp_path / "a.wav", pcm(tone(1, 16_000))), max_seconds=0.5)


def test_nothing_finite(tmp_path):
    with pytest.raises(InvalidAudioError, match="no finite sample"):
        load_audio(wav(tmp_path / "a.wav", np.full(8000, np.nan, "<f4").tobytes(), bits=32, kind=3))


def test_damaged_mp3_never_raises_anything_else(make_audio):
    path = make_audio("a.mp3", seconds=1, rate=44_100)
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    rng = np.random.default_rng(0)
    for _ in range(20):
        damaged = content.copy()
        damaged[rng.integers(0, len(content), 200)] ^= 0xFF
        path.write_bytes(damaged.tobytes())
        try:
            assert np.isfinite(load_audio(path).samples).all()
        except InvalidAudioError:
            pass


def test_frames_of_many_channels_are_read_as_they_are():
    """Also planar ones: sixteen planes are more than PyAV counts rightly."""
    samples = np.arange(16 * 100, dtype=np.float32).reshape(16, 100) / 1600
    packed = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1).copy(), format="flt", layout="hexadecagonal")
    packed.sample_rate = 48_000
    planar, = av.AudioResampler("fltp", packed.layout, 48_000).resample(packed)
    assert planar.format.is_planar
    for frame in (packed, planar):
        assert np.array_equal(audio._samples_of(frame), samples)
