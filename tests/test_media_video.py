import av
import numpy as np
import pytest

from temposync_pipeline.errors import InvalidInputError, InvalidVideoError
from temposync_pipeline.media import video
from temposync_pipeline.media.audio import decode_audio, load_audio
from temposync_pipeline.media.planes import StillPlanes
from temposync_pipeline.media.video import VideoWriter, read_video, stream_video

from .conftest import tone


def write(path, picture, count=10, **options):
    with VideoWriter(path, **options) as writer:
        for _ in range(count):
            writer.write(picture)
    return path


def durations(path):
    """Seconds of the video and of the audio track."""
    with av.open(str(path)) as container:
        return [float(streams[0].duration * streams[0].time_base) for streams in (container.streams.video, container.streams.audio)]


def test_pixels_survive(tmp_path, picture):
    frames, fps = read_video(write(tmp_path / "a.mp4", picture))
    assert fps == 25 and frames.shape == (10, 64, 96, 3)  # odd sides are padded
    assert np.abs(frames[5, :63, :95].astype(int) - picture).mean() < 3
    np.testing.assert_allclose(frames[5, 63].astype(int), frames[5, 62].astype(int), atol=12)


def test_what_cannot_be_written_is_said_of_the_file_asked_for(tmp_path, picture):
    with pytest.raises(FileNotFoundError, match="nowhere/a.mp4") as found:
        write(tmp_path / "nowhere" / "a.mp4", picture)
    assert found.value.filename == str(tmp_path / "nowhere" / "a.mp4")


def test_stream_format(tmp_path, picture):
    with av.open(str(write(tmp_path / "a.mp4", picture, fps=30))) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt, video.average_rate) == ("h264", "yuv420p", 30)
        assert video.codec_context.colorspace == 1
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # players can start before the end has arrived


@pytest.mark.parametrize(("name", "rate", "layout"), [
    ("a.wav", 44_100, "stereo"), ("a.wav", 8_000, "mono"), ("a.flac", 96_000, "mono"), ("a.mp3", 22_050, "stereo"),
    ("a.opus", 48_000, "mono"),
])
def test_the_original_sound_is_kept(tmp_path, picture, make_audio, name, rate, layout):
    audio = load_audio(make_audio(name, seconds=1.33, rate=rate, layout=layout))
    path = write(tmp_path / "out.mp4", picture, round(audio.duration * 25), audio_path=audio.path)
    video_seconds, audio_seconds = durations(path)
    assert video_seconds == pytest.approx(audio.duration, abs=0.04)
    assert audio_seconds == pytest.approx(audio.duration, abs=0.04)
    with av.open(str(path)) as container:
        sound = container.streams.audio[0]
        assert (sound.codec_context.name, sound.rate, sound.layout.name) == ("aac", rate, layout)
    muxed = load_audio(path).samples
    length = min(len(muxed), len(audio.samples))
    assert np.corrcoef(muxed[:length], audio.samples[:length])[0, 1] > 0.98


def test_rates_unknown_to_aac_and_many_channels(tmp_path, picture, make_audio):
    path = write(tmp_path / "out.mp4", picture, 25, audio_path=make_audio("a.wav", rate=37_000, layout="5.1"))
    assert durations(path) == pytest.approx([1, 1], abs=0.04)


def test_sound_from_an_array_ends_with_the_video(tmp_path, picture):
    path = write(tmp_path / "out.mp4", picture, 10, audio_path=(tone(3, 32_000), 32_000))
    assert durations(path) == pytest.approx([0.4, 0.4], abs=0.001)


def test_sound_is_never_cut_by_less_than_a_frame(tmp_path, picture):
    path = write(tmp_path / "out.mp4", picture, 10, audio_path=(tone(0.419, 44_100), 44_100))
    assert durations(path)[1] == pytest.approx(0.419, abs=0.002)


def test_bad_samples_are_silenced(tmp_path, picture):
    samples = tone(0.4, 44_100)
    samples[1000:2000] = np.nan
    path = write(tmp_path / "out.mp4", picture, 10, audio_path=(samples, 44_100))
    assert all(np.isfinite(chunk).all() for chunk, _ in decode_audio(path))


@pytest.mark.parametrize("scale", [4.0, 32_000.0])
def test_loud_floats_are_scaled_not_clipped(tmp_path, picture, scale):
    path = write(tmp_path / "out.mp4", picture, 25, audio_path=(scale * tone(1, 16_000), 16_000))
    sound, expected = load_audio(path).samples[800:15_200], tone(1, 16_000)[800:15_200]
    gain = (sound @ expected) / (expected @ expected)
    assert np.std(sound - gain * expected) < 0.05 * np.std(sound)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, picture):
    (tmp_path / "out.mp4").write_bytes(b"old")
    with pytest.raises(KeyError), VideoWriter(tmp_path / "out.mp4") as writer:
        writer.write(picture)
        raise KeyError
    with pytest.raises(ValueError, match="no frame"), VideoWriter(tmp_path / "out.mp4"):
        pass
    with pytest.raises(ValueError, match="the first one was"), VideoWriter(tmp_path / "out.mp4") as writer:
        writer.write(picture)
        writer.write(picture[:32])
    (tmp_path / "bad.wav").write_bytes(b"bad")
    with pytest.raises(InvalidInputError), VideoWriter(tmp_path / "out.mp4", audio_path=tmp_path / "bad.wav") as writer:
        writer.write(picture)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.wav", "out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"old"


def test_the_target_is_replaced_only_at_the_end(tmp_path, picture):
    (tmp_path / "out.mp4").write_bytes(b"old")
    with VideoWriter(tmp_path / "out.mp4") as writer:
        writer.write(picture)
        assert (tmp_path / "out.mp4").read_bytes() == b"old"
    assert len(read_video(tmp_path / "out.mp4")[0]) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_unusable_targets(tmp_path, picture, make_audio):
    with pytest.raises(FileNotFoundError), VideoWriter(tmp_path / "missing" / "out.mp4"):
        pass
    with pytest.raises(InvalidInputError, match="folder"), VideoWriter(tmp_path):
        pass
    audio = make_audio("a.wav")
    with pytest.raises(InvalidInputError, match="its own sound"), VideoWriter(audio, audio_path=audio):
        pass


def test_unicode_and_odd_names(tmp_path, picture):
    for name in ("прив ет.mp4", "a:b?.mp4", "%d.mp4"):
        assert len(read_video(write(tmp_path / name, picture, 3))[0]) == 3


def test_streaming_reads_no_more_than_asked(tmp_path, picture):
    path = write(tmp_path / "a.mp4", picture, 12)
    frames, fps = stream_video(path, max_frames=5)
    assert fps == 25 and sum(1 for _ in frames) == 5
    assert read_video(path, max_frames=5)[0].shape[0] == 5


def test_what_is_not_video(tmp_path, make_audio, picture):
    (tmp_path / "text.mp4").write_text("hello " * 100)
    whole = write(tmp_path / "a.mp4", picture).read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: whole.index(b"mdat") - 40])
    for path in (tmp_path / "text.mp4", tmp_path / "half.mp4", make_audio("a.wav")):
        with pytest.raises(InvalidVideoError, match=path.name):
            read_video(path)
    with pytest.raises(FileNotFoundError):
        read_video(tmp_path / "missing.mp4")


def test_sides_that_cannot_be_encoded_are_told(tmp_path):
    """A panorama may be within the limit of pixels and as wide as no mp4."""
    from temposync_pipeline.media.live_video import LiveVideoWriter

    with VideoWriter(tmp_path / "widest.mp4") as writer:
        writer.write(np.zeros((32, 16_384, 3), np.uint8))
    for height, width in ((32, 16_386), (16_386, 32)):
        said = f"a video of {width}x{height} px; an mp4 can have 16384 px a side"
        with pytest.raises(InvalidVideoError, match=f"wide.mp4: {said}"), VideoWriter(tmp_path / "wide.mp4") as writer:
            writer.write(np.zeros((height, width, 3), np.uint8))
        with open(tmp_path / "live", "wb") as file, pytest.raises(InvalidVideoError, match=said), LiveVideoWriter(file, width, height):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["live", "widest.mp4"]


def test_few_frames_are_kept_to_look_ahead(tmp_path):
    with VideoWriter(tmp_path / "video.mp4") as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))
    assert b"rc_lookahead=5" in (tmp_path / "video.mp4").read_bytes()  # x264 writes its settings into the stream


@pytest.mark.parametrize("large", [1, 10**9])
def test_a_large_frame_that_is_changed_after_it_was_given_is_encoded_as_it_was(tmp_path, monkeypatch, large):
    monkeypatch.setattr(video, "LARGE_FRAME", large)
    photo = np.full((96, 128, 3), 90, np.uint8)
    planes, patches = StillPlanes(photo), [np.full((40, 48, 3), level, np.uint8) for level in (20, 220, 60, 180, 100, 140, 30, 200)]
    with VideoWriter(tmp_path / "video.mp4") as writer:
        for patch in patches:
            writer.write_planes(planes.with_change(24, 32, patch))
        assert writer._video.codec_context.thread_type.name == ("FRAME" if large == 1 else "SLICE")
    frames, _ = read_video(tmp_path / "video.mp4")
    assert [abs(int(frame[44, 56].mean()) - int(patch.mean())) < 6 for frame, patch in zip(frames, patches, strict=True)] == [True] * 8
