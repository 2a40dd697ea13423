"""Clips as cameras, phones and cutting tools leave them: a flash and a beep tell when their pictures and sound are."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from temposync_pipeline.errors import InvalidVideoError
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.media.video import load_soundtrack, read_video, stream_video

MOMENT = 1.0  # of flash and beep, in seconds
RATE = 16_000
MILLISECONDS = Fraction(1, 1000)


def frame_at(time: float) -> np.ndarray:
    """Grey, white in the flash, with a red block at the upper left."""
    frame = np.full((64, 96, 3), 230 if abs(time - MOMENT) < 0.01 else 40, np.uint8)
    frame[:16, :32] = (230, 20, 20)
    return frame


def write_clip(
    path: Path, times: list[float], codec: str = "libx264", sound: str = "aac", sound_late: float = 0.0, pictures_late: float = 0.0,
    seconds: float = 3.0, fps: int = 25, **options
) -> Path:
    """A clip whose frames appear at `times`; `sound_late` and `pictures_late` move either by so many seconds."""
    clock = np.arange(round(seconds * RATE)) / RATE
    samples = np.where((clock >= MOMENT) & (clock < MOMENT + 0.04), np.sin(2000 * np.pi * clock), 0).astype(np.float32)
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream(codec, rate=fps, options={"g": "12"})
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        if path.suffix != ".avi":
            video.codec_context.time_base = MILLISECONDS
        audio = container.add_stream(sound, rate=48_000 if sound == "libopus" else RATE, layout="mono")
        packets = []
        for time in times:
            picture = av.VideoFrame.from_ndarray(frame_at(time), format="rgb24")
            picture.pts, picture.time_base = round((time + pictures_late) * 1000), MILLISECONDS
            packets += video.encode(picture)
        packets += video.encode(None)
        resampler = av.AudioResampler(audio.format.name, "mono", audio.rate, frame_size=audio.codec_context.frame_size or 1024)
        whole = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        whole.sample_rate, whole.pts = RATE, 0
        for piece in (*resampler.resample(whole), *resampler.resample(None)):
            piece.pts += round(sound_late / piece.time_base)
            packets += audio.encode(piece)
        packets += audio.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def steady(fps: float, seconds: float = 3.0) -> list[float]:
    return [count / fps for count in range(round(seconds * fps))]


def flash(path: Path) -> float:
    """When the picture is white, in seconds of a video of 25 frames a second."""
    frames, fps = read_video(path, fps=25)
    brightness = frames[:, 32:, 48:].mean((1, 2, 3))
    assert fps == 25 and brightness.max() > 180
    return float(brightness.argmax() / 25)


def beep(path: Path) -> float:
    return float(np.flatnonzero(np.abs(load_soundtrack(path).samples) > 0.25)[0] / RATE)


def write_cut(source: Path, path: Path, start: Fraction, **options) -> Path:
    """Copies the streams from `start` on, as cutting tools do: the pictures from the key frame before, the sound exactly."""
    with av.open(str(source)) as original, av.open(str(path), "w", options=options) as cut:
        streams = {stream.type: cut.add_stream_from_template(stream) for stream in original.streams}
        packets = [packet for packet in original.demux() if packet.pts is not None]
        key = max(packet.pts * packet.time_base for packet in packets
                  if packet.stream.type == "video" and packet.is_keyframe and packet.pts * packet.time_base <= start)
        for packet in packets:
            kind = packet.stream.type
            if packet.pts * packet.time_base >= (key if kind == "video" else start):
                packet.pts, packet.dts = (stamp - round(start / packet.time_base) for stamp in (packet.pts, packet.dts))
                packet.stream = streams[kind]
                cut.mux(packet)
    return path


@pytest.mark.parametrize(("name", "settings"), [
    ("a.mp4", {}), ("a.mov", {"sound": "pcm_s16le"}), ("a.mkv", {"sound": "libopus"}), ("a.webm", {"codec": "libvpx", "sound": "libopus"}),
    ("a.ts", {}), ("fragmented.mp4", {"movflags": "frag_keyframe+empty_moov"}), ("delayed.mp4", {"movflags": "frag_keyframe+delay_moov"}),
])
def test_flash_and_beep_stay_together(tmp_path, name, settings):
    path = write_clip(tmp_path / name, steady(25), **settings)
    assert flash(path) == MOMENT and beep(path) == pytest.approx(MOMENT, abs=0.02)
    assert len(read_video(path, fps=25)[0]) == 75


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_streams_that_start_at_different_times(tmp_path, name):
    late_sound = write_clip(tmp_path / name, steady(25), sound_late=0.5)
    assert flash(late_sound) == MOMENT and beep(late_sound) == pytest.approx(MOMENT + 0.5, abs=0.01)
    # The clock starts with the first picture: the sound before it is left out.
    late_pictures = write_clip(tmp_path / name, steady(25), pictures_late=0.5)
    assert flash(late_pictures) == MOMENT and beep(late_pictures) == pytest.approx(MOMENT - 0.5, abs=0.01)
    assert load_soundtrack(late_pictures).duration == pytest.approx(2.5, abs=0.07)
    # In whole frames of AAC, 64 ms each, of which older FFmpegs keep the padding in Matroska.
    assert load_audio(late_pictures).duration == pytest.approx(3.0, abs=0.08)


@pytest.mark.parametrize(("name", "options"), [("cut.mp4", {}), ("cut.mkv", {}), ("cut.ts", {}), ("cut.mov", {}),
                                              ("fragmented.mp4", {"movflags": "frag_keyframe+empty_moov"})])
def test_cuts_without_encoding(tmp_path, name, options):
    cut = write_cut(write_clip(tmp_path / "whole.mp4", steady(25)), tmp_path / name, Fraction(7, 10), **options)
    # An edit list drops the pictures before the cut, other formats show them; a cut between two frames may be half a frame off.
    assert beep(cut) == pytest.approx(flash(cut), abs=0.021)


def test_a_variable_rate_keeps_its_time(tmp_path):
    """A phone that drops frames: three seconds with a gap, at 25 and at 30 a second."""
    for fps in (25, 30):
        times = [time for time in steady(fps) if not 0.1 < time < 0.8]
        path = write_clip(tmp_path / "a.mp4", times, fps=fps)
        assert flash(path) == MOMENT and len(read_video(path, fps=25)[0]) == 75
        own, rate = read_video(path)
        assert len(own) == len(times) and rate < fps


def test_frames_of_one_time_stamp_delay_none_of_the_others(tmp_path):
    """Some who write as they film give a frame the stamp of the one before."""
    source, path = write_clip(tmp_path / "a.mkv", steady(25), codec="mpeg4"), tmp_path / "slips.mkv"
    with av.open(str(source)) as whole, av.open(str(path), "w") as slipped:
        streams, stamps = {stream.type: slipped.add_stream_from_template(stream) for stream in whole.streams}, []
        for packet in whole.demux():
            if packet.pts is None:
                continue
            if packet.stream.type == "video":
                if len(stamps) in (3, 6, 9, 15, 20, 40, 50):
                    packet.pts = packet.dts = stamps[-1]
                stamps.append(packet.pts)
            packet.stream = streams[packet.stream.type]
            slipped.mux(packet)
    with av.open(str(path)) as container:
        stamps = [frame.pts for frame in container.decode(video=0)]
    assert len(stamps) == 75 and len(set(stamps)) == 68
    assert flash(path) == MOMENT and len(read_video(path, fps=25)[0]) == 75


def test_other_rates(tmp_path):
    """At 50 fps every other frame is left out, at 12.5 each is shown twice, at 30 five of six remain."""
    for fps, count in ((50, 150), (30, 90), (25, 75)):
        path = write_clip(tmp_path / "a.mp4", steady(fps), fps=fps)
        assert len(read_video(path, fps=25)[0]) == 75 and len(read_video(path)[0]) == count
    frames, _ = read_video(write_clip(tmp_path / "a.mp4", [0.0, 0.08, 0.16], seconds=0.24), fps=25)
    np.testing.assert_array_equal(frames[::2], frames[1::2])
    assert len(frames) == 6
    assert len(list(stream_video(write_clip(tmp_path / "a.mp4", steady(25)), max_frames=7, fps=25)[0])) == 7


def test_avi_has_no_time_stamps(tmp_path):
    path = write_clip(tmp_path / "a.avi", steady(25), sound="pcm_s16le")
    assert flash(path) == MOMENT and beep(path) == pytest.approx(MOMENT, abs=0.01)


def test_time_stamps_that_jump_are_refused(tmp_path):
    path = write_clip(tmp_path / "a.mkv", [0.0, 0.04, 500.0])
    with pytest.raises(InvalidVideoError, match=r"a\.mkv: its time stamps jump by 500 s"):
        read_video(path, fps=25)
    assert len(read_video(path)[0]) == 3


def turned(source: Path, path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """The mp4 with the display matrix (a, b, c, d) in its video track's header (ISO 14496-12, 8.3.2)."""
    content = bytearray(source.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    content[start:start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("matrix", "shape", "corner"), [
    ((1, 0, 0, 1), (64, 96), "upper left"), ((0, 1, -1, 0), (96, 64), "upper right"), ((-1, 0, 0, -1), (64, 96), "lower right"),
    ((0, -1, 1, 0), (96, 64), "lower left"), ((-1, 0, 0, 1), (64, 96), "upper right"), ((0, 1, 1, 0), (96, 64), "upper left"),
])
def test_pictures_are_turned_as_the_file_asks(tmp_path, matrix, shape, corner):
    path = turned(write_clip(tmp_path / "a.mp4", steady(25, 0.4), seconds=0.4), tmp_path / "turned.mp4", matrix)
    for frames, _ in (read_video(path), read_video(path, fps=25)):
        assert frames.shape == (10, *shape, 3)
        rows, columns = np.nonzero(frames[5, ..., 0].astype(int) - frames[5, ..., 1] > 100)
        found = f"{'upper' if rows.mean() < shape[0] / 2 else 'lower'} {'left' if columns.mean() < shape[1] / 2 else 'right'}"
        assert found == corner


COLOURS = [(224, 172, 140), (90, 60, 50), (200, 30, 30), (30, 160, 60), (128, 128, 128), (255, 255, 255), (0, 0, 0)]


def planes(colours: np.ndarray, space: Colorspace, full_range: bool) -> np.ndarray:
    """Planes [Y, Cb, Cr] of colours [..., 3] by the definitions of BT.601 and BT.709."""
    red, blue = (0.2126, 0.0722) if space == Colorspace.ITU709 else (0.299, 0.114)
    light = colours / 255
    luma = light @ [red, 1 - red - blue, blue]
    chroma = [(light[..., 2] - luma) / (2 - 2 * blue), (light[..., 0] - luma) / (2 - 2 * red)]
    if full_range:
        return np.rint([255 * luma, *(128 + 255 * part for part in chroma)])
    return np.rint([16 + 219 * luma, *(128 + 224 * part for part in chroma)])


@pytest.mark.parametrize("space", [Colorspace.ITU709, Colorspace.ITU601])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_are_read_to_the_level(tmp_path, space, full_range):
    stripes = np.repeat(np.array(COLOURS, float), 32, 0)[None].repeat(64, 0)
    luma, blue, red = np.clip(planes(stripes, space, full_range), 0, 255).astype(np.uint8)
    layout = np.concatenate([luma.ravel(), blue[::2, ::2].ravel(), red[::2, ::2].ravel()]).reshape(-1, luma.shape[1])
    kind = "yuvj420p" if full_range else "yuv420p"
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = luma.shape[1], 64, kind
        stream.codec_context.colorspace = 1 if space == Colorspace.ITU709 else 6
        stream.codec_context.color_range = ColorRange.JPEG if full_range else ColorRange.MPEG
        frame = av.VideoFrame.from_ndarray(layout, format=kind)
        frame.colorspace, frame.color_range, frame.pts = space, stream.codec_context.color_range, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    read = read_video(tmp_path / "a.mp4")[0][0, 32, 16::32]
    np.testing.assert_allclose(read.astype(int), COLOURS, atol=1)
