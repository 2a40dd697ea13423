"""Footage: its own frames, times, size and colours, forwards and backwards."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from temposync_pipeline.errors import InvalidVideoError
from temposync_pipeline.media.footage import BACKWARDS, Footage
from temposync_pipeline.media.hdr import HLG, PQ, to_standard
from temposync_pipeline.media.planes import arrays_of
from temposync_pipeline.media.shots import ShotDetector
from temposync_pipeline.media.video import VideoWriter, read_video

from .test_bad_inputs import clip

HEIGHT, WIDTH = 48, 64
TICK = Fraction(1, 24_000)


def level_of(number: int) -> int:
    return 30 + 5 * number


def write_film(path: Path, stays: list[int], codec: str = "libx264", pix_fmt: str = "yuv420p", size=(WIDTH, HEIGHT), **labels) -> Path:
    """Frames that stay so many ticks, each of its own grey and with a red corner; a key frame every seven."""
    with av.open(str(path), "w") as container:
        options = {"g": "7", "qp": "0"} if codec == "libx264" else {"g": "7"}
        video = container.add_stream(codec, rate=24, options=options)
        video.width, video.height, video.pix_fmt = *size, pix_fmt
        if path.suffix not in (".avi", ".mpg"):
            video.codec_context.time_base = TICK
        for name, value in labels.items():
            setattr(video.codec_context, name, value)
        clock = 0
        for number, ticks in enumerate(stays):
            picture = np.full((size[1], size[0], 3), level_of(number), np.uint8)
            picture[:16, :16] = (200, 30, 30)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format=pix_fmt, dst_colorspace=labels.get("colorspace"), dst_color_range=labels.get("color_range"))
            frame.pts, frame.time_base = clock, TICK
            if path.suffix in (".avi", ".mpg"):
                frame.pts, frame.time_base = number, Fraction(1, 24)
            frame.duration = ticks
            clock += ticks
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def write_covered(path: Path, attached: bool, film: bool = True) -> Path:
    """A cover, flagged as one or not, and after it a film of three frames or a moment of silence."""
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=25)
        cover.disposition = Disposition.attached_pic if attached else Disposition.default
        other = container.add_stream("mpeg4", rate=25) if film else container.add_stream("aac", rate=16_000, layout="mono")
        videos = [(cover, 1, "yuvj420p"), *([(other, 3, "yuv420p")] if film else [])]
        for stream, _, kind in videos:  # all of them before the first packet
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, kind
        for stream, count, kind in videos:
            for number in range(count):
                frame = av.VideoFrame(WIDTH, HEIGHT, kind)
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        if not film:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16_000
            container.mux(other.encode(frame))
            container.mux(other.encode(None))
    return path


def shown(footage: Footage, frames) -> list[int]:
    """Which frame of the film each is, by its grey."""
    return [round((float(footage.picture(frame.planes)[-8:, -8:].mean()) - 30) / 5) for frame in frames]


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_cover_is_no_film(tmp_path, name, attached):
    assert len(list(Footage(write_covered(tmp_path / name, attached)).frames(1, "cut"))) == 3
    assert len(read_video(tmp_path / name)[0]) == 3


def test_a_gif_is_a_film(tmp_path):
    """With a time for each of its pictures, which stay for as long on the way back."""
    pictures = [Image.fromarray(np.full((HEIGHT, WIDTH, 3), level_of(number), np.uint8)) for number in range(4)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[100, 200, 40, 60])
    footage = Footage(tmp_path / "a.gif")
    frames = list(footage.frames(0.6))
    assert shown(footage, frames) == [0, 1, 2, 3, 2, 1] and (footage.width, footage.height) == (WIDTH, HEIGHT)
    assert [round(1000 * float(frame.appears)) for frame in frames] == [0, 100, 300, 340, 400, 440]


def test_a_picture_alone_is_told(tmp_path):
    write_covered(tmp_path / "cover.mp4", attached=True, film=False)
    clip(tmp_path / "picture.mp4", rate=1000, frames=1)
    for name, message in (("cover.mp4", "a cover picture, but no video in this file"),
                          ("picture.mp4", "a single picture, no video in this file")):
        for read in (Footage, read_video):
            with pytest.raises(InvalidVideoError, match=f"^{name}: {message}$"):
                read(tmp_path / name)


@pytest.mark.parametrize("name, codec", [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.mpg", "mpeg1video"),
                                         ("a.flv", "flv1"), ("a.flv", "libx264")])
def test_it_goes_back_and_forth(tmp_path, name, codec):
    footage = Footage(write_film(tmp_path / name, 20 * [1000], codec))
    there = list(range(20))
    found = shown(footage, footage.frames(60 / 24))
    assert found == (there + there[-2:0:-1] + there + there[-2::-1])[:60]
    assert 20 > BACKWARDS  # so that going back takes several readings


def test_other_ends(tmp_path):
    footage = Footage(write_film(tmp_path / "a.mp4", 5 * [1000]))
    assert shown(footage, footage.frames(8 / 24, "freeze")) == [0, 1, 2, 3, 4, 4, 4, 4]
    assert shown(footage, footage.frames(8 / 24, "cut")) == [0, 1, 2, 3, 4]
    assert shown(footage, footage.frames(3 / 24)) == [0, 1, 2]
    assert shown(footage, footage.frames(0.0)) == [0]


def test_frozen_frames_are_free_to_be_changed(tmp_path):
    footage = Footage(write_film(tmp_path / "a.mp4", [1000]))
    for frame in footage.frames(3 / 24):
        plane = arrays_of(frame.planes)[0]
        assert plane[-1, -1] != 255
        plane[:] = 255


def test_every_frame_keeps_its_time(tmp_path):
    stays = [1000, 3000, 500, 1000, 2000, 1000]
    footage = Footage(write_film(tmp_path / "a.mp4", stays))
    frames = list(footage.frames(1.0))
    ticks = stays + stays[-2:0:-1] + stays
    starts = np.cumsum([0, *ticks])
    assert [frame.appears for frame in frames] == [Fraction(int(start), 24_000) for start in starts[:len(frames)]]
    assert float(frames[-1].appears + frames[-1].stays) == pytest.approx(1.0, abs=1 / 24)


@pytest.mark.parametrize("rate", [Fraction(24_000, 1001), Fraction(30_000, 1001), Fraction(50), Fraction(60)])
def test_frame_rates_survive_the_writer(tmp_path, rate):
    with VideoWriter(tmp_path / "in.mp4", rate) as writer:
        for number in range(12):
            writer.write(np.full((32, 32, 3), level_of(number), np.uint8))
    footage = Footage(tmp_path / "in.mp4")
    with VideoWriter(tmp_path / "out.mp4", footage.rate, look=footage.look, tick=footage.tick) as writer:
        for frame in footage.frames(30 / float(rate)):
            writer.write_planes(frame.planes, frame.appears, frame.stays)
    with av.open(str(tmp_path / "out.mp4")) as container:
        video = container.streams.video[0]
        assert video.average_rate == rate and video.frames == 30
        times = [frame.pts * frame.time_base for frame in container.decode(video)]
    assert times == [number / rate for number in range(30)]


@pytest.mark.parametrize("matrix, levels", [(Colorspace.ITU709, ColorRange.MPEG), (Colorspace.ITU601, ColorRange.MPEG),
                                            (Colorspace.ITU601, ColorRange.JPEG)])
def test_colours_are_the_films(tmp_path, matrix, levels):
    film = write_film(tmp_path / "in.mp4", 3 * [1000], colorspace=int(matrix), color_range=int(levels))
    footage = Footage(film)
    assert (footage.look.matrix, footage.look.range) == (matrix, levels)
    with VideoWriter(tmp_path / "out.mp4", footage.rate, look=footage.look, tick=footage.tick) as writer:
        for frame in footage.frames(3 / 24):
            picture = footage.picture(frame.planes)
            assert np.abs(picture[4:12, 4:12].mean((0, 1)) - (200, 30, 30)).max() < 4
            # What is painted has the colour that was asked for.
            footage.paint(frame.planes, picture, 16, 16, np.full((16, 16, 3), (30, 160, 60), np.uint8))
            assert np.abs(footage.picture(frame.planes)[20:28, 20:28].mean((0, 1)) - (30, 160, 60)).max() < 3
            writer.write_planes(frame.planes, frame.appears, frame.stays)
    with av.open(str(tmp_path / "out.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (matrix, levels)
    assert np.abs(read_video(tmp_path / "out.mp4")[0][0, 20:28, 20:28].mean((0, 1)) - (30, 160, 60)).max() < 4


def test_only_what_changes_is_painted(tmp_path):
    footage = Footage(write_film(tmp_path / "in.mp4", [1000]))
    frame = next(footage.frames(1.0))
    picture, before = footage.picture(frame.planes), [plane.copy() for plane in arrays_of(frame.planes)]
    footage.paint(frame.planes, picture, 3, 5, picture[3:30, 5:50])
    assert all(np.array_equal(*pair) for pair in zip(before, arrays_of(frame.planes)))
    pixels = picture[3:30, 5:50].copy()
    pixels[10, 10] = (0, 255, 0)
    footage.paint(frame.planes, picture, 3, 5, pixels)
    changed = [np.argwhere(old != new).tolist() for old, new in zip(before, arrays_of(frame.planes))]
    assert changed[0] == [[13, 15]] and all(places in ([], [[6, 7]]) for places in changed[1:])


def test_turned_as_the_file_asks(tmp_path):
    film = write_film(tmp_path / "in.mp4", 3 * [1000])
    data = bytearray(film.read_bytes())
    # The track's matrix: 90° clockwise, a = d = 0, b = 1, c = -1 in 16.16.
    at = data.index(b"tkhd") + 4 + 40
    data[at:at + 36] = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, HEIGHT << 16, 0, 1 << 30], ">i4").tobytes()
    film.write_bytes(data)
    footage = Footage(film)
    assert (footage.height, footage.width) == (WIDTH, HEIGHT)
    picture = footage.picture(next(footage.frames(1.0)).planes)
    assert picture.shape == (WIDTH, HEIGHT, 3) and np.abs(picture.astype(int) - read_video(film)[0][0]).mean() < 0.5
    assert picture[4, -4, 0] > 180 and picture[4, 4, 0] < 60  # the red corner is at the upper right


@pytest.mark.parametrize("codec, pix_fmt, words", [("libx264", "yuv422p", "yuv422p"), ("libx265", "yuv420p10le", "10 bits")])
def test_other_pixels_are_converted_and_said_so(tmp_path, caplog, codec, pix_fmt, words):
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV without {codec}")
    footage = Footage(write_film(tmp_path / "in.mp4", 4 * [1000], codec, pix_fmt))
    assert words in caplog.text
    frames = list(footage.frames(4 / 24))
    assert frames[0].planes.format.name == "yuv420p" and shown(footage, frames) == [0, 1, 2, 3]


@pytest.mark.parametrize("transfer, white", [(PQ, 0.5807), (HLG, 0.75)])
def test_hdr_shows_its_reference_white_bright_and_keeps_greys_grey(transfer, white):
    def frame_of(signal: float) -> av.VideoFrame:
        frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), round(65535 * signal), np.uint16), format="rgb48le").reformat(
            format="yuv420p10le", dst_colorspace=Colorspace.BT2020, dst_color_range=ColorRange.MPEG)
        frame.color_trc, frame.colorspace, frame.color_range = transfer, 9, ColorRange.MPEG
        return frame

    black, grey, bright, most = (to_standard(frame_of(signal)) for signal in (0.0, 0.7 * white, white, 1.0))
    assert black.max() <= 3 and 205 < bright.min() <= 250 and most.min() >= bright.max() and most.min() > 235
    assert np.ptp(grey.astype(int), axis=-1).max() <= 2 and 20 < grey.mean() < 200


def test_films_that_cannot_be_used(tmp_path, make_audio):
    with pytest.raises(InvalidVideoError, match="no video"):
        Footage(make_audio("a.wav"))
    (tmp_path / "b.mp4").write_bytes(b"nothing")
    with pytest.raises(InvalidVideoError):
        Footage(tmp_path / "b.mp4")
    with pytest.raises(FileNotFoundError):
        Footage(tmp_path / "c.mp4")


def test_a_cut_begins_a_shot_and_a_moving_head_does_not():
    y, x = np.mgrid[:180, :320]

    def head(place: float, light: int = 0) -> np.ndarray:
        picture = np.stack([60 + 0.3 * x, 90 + 0.2 * y, 120 - 0.2 * x], -1)
        picture[(x - place) ** 2 + (y - 90) ** 2 < 45**2] = (200, 160, 140)
        return np.clip(picture + light, 0, 255).astype(np.uint8)

    detector = ShotDetector()
    assert not any(detector.begins(head(100 + 4 * number)) for number in range(20))
    assert detector.begins(255 - head(180))
    assert not any(detector.begins(255 - head(180 + number)) for number in range(5))


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("fragments.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"),
                                             ("a.ts", "libx264")])
def test_a_video_that_breaks_off_says_so(tmp_path, caplog, name, codec):
    """An MPEG transport stream states no length: there a packet that is cut tells."""
    options = {"a.mp4": "faststart", "fragments.mp4": "frag_keyframe+empty_moov"}
    with av.open(str(tmp_path / name), "w", options={"movflags": options[name]} if name in options else {}) as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for noise in np.random.default_rng(0).integers(0, 256, (50, HEIGHT, WIDTH, 3), np.uint8):
            container.mux(video.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(video.encode(None))
    assert len(list(Footage(tmp_path / name).frames(9, "cut"))) == 50 and not caplog.records
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:len(whole) * 3 // 5 // 188 * 188 + 100])
    count = len(list(Footage(tmp_path / name).frames(9, "cut")))
    told = [record.getMessage() for record in caplog.records if "breaks off" in record.getMessage()]
    assert 15 < count < 40 and len(told) == 1 and told[0].startswith(f"{name}: breaks off")
    if name != "a.ts":
        assert f"{count / 25:.2f} s of the announced" in told[0]
