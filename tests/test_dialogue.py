"""Two people of one photo, who speak in turn."""

from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from temposync_pipeline import FaceError, InvalidInputError
from temposync_pipeline.face.mouth_box import Patch
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.media.video import VideoWriter
from temposync_pipeline.pipelines.dialogue import join_recordings, together
from temposync_pipeline.pipelines.pipeline_temposync import TempoSyncPipeline

from .tiny_components import picture, spoken, template_face, tiny_pipeline

pytestmark = pytest.mark.makes_videos

SIZE = 128


@pytest.fixture(scope="module")
def pipeline() -> TempoSyncPipeline:
    """Two faces side by side, of one size."""
    def two_faces(photo, *_):
        first, = template_face(photo)
        return [first, replace(first, landmarks=first.landmarks + np.float32([SIZE, 0]))]

    pipeline = tiny_pipeline()
    pipeline.face_aligner.detect = two_faces
    return pipeline


@pytest.fixture
def couple(tmp_path):
    Image.fromarray(picture(SIZE, 2 * SIZE)).save(tmp_path / "couple.png")
    return tmp_path / "couple.png"


@pytest.fixture
def written(monkeypatch) -> list[np.ndarray]:
    """The frames as they go to the encoder."""
    frames, write = [], VideoWriter.write_planes
    monkeypatch.setattr(VideoWriter, "write_planes", lambda self, frame, *times: (
        frames.append(frame.to_ndarray()[:SIZE].copy()), write(self, frame, *times))[1])
    return frames


def test_who_does_not_speak_rests(pipeline, couple, tmp_path, written):
    turns = [(0, spoken(0.4)), (1, spoken(1.0, 44_100)), (0, spoken(0.2))]
    figures = pipeline.dialogue_to_file(couple, turns, tmp_path / "out.mp4", 1, torch.Generator().manual_seed(0), progress=False)
    assert figures == {"output": str(tmp_path / "out.mp4"), "frames": 40, "fps": 25, "seconds": 1.6}
    moving = [np.abs(np.diff(np.stack(written)[:, :, half].astype(int), axis=0)).max((1, 2)) > 0
              for half in (slice(0, SIZE), slice(SIZE, None))]
    # Frames 0 to 9 are the first one's, 10 to 34 the second's; smoothing and windows reach some frames into a pause.
    assert moving[0][:8].any() and not moving[0][19:26].any() and moving[0][35:].any()
    assert not moving[1][:2].any() and moving[1][12:32].any()
    with av.open(str(tmp_path / "out.mp4")) as container:
        sound = container.streams.audio[0]
        assert container.streams.video[0].frames == 40 and sound.rate == 44_100
        assert float(sound.duration * sound.time_base) == pytest.approx(1.6, abs=0.05)


def test_recordings_follow_each_other(make_audio):
    samples, rate, ends = join_recordings([make_audio("a.wav", 0.5, 16_000), make_audio("b.wav", 0.25, 48_000, "stereo"), spoken(0.3)])
    assert samples.shape == (2, 50_400) and rate == 48_000 and ends == [24_000, 36_000, 50_400]
    assert np.allclose(samples[0], samples[1]) and np.abs(samples).max() <= 1
    assert load_audio((samples, rate)).duration == pytest.approx(1.05)


def test_patches_together():
    photo = picture(40, 60)
    one, two = (Patch(top, left, photo[top:top + 10, left:left + 12].copy()) for top, left in ((5, 5), (10, 12)))
    one.pixels[9, 11], two.pixels[0, 1], two.pixels[9, 9] = 0, 7, 9
    both = together(photo, [one, two]).onto(photo)
    expected = photo.copy()
    expected[14, 16], expected[10, 13], expected[19, 21] = 0, 7, 9
    assert np.array_equal(both, expected)
    empty = Patch(0, 0, photo[:0, :0])
    assert together(photo, [empty, one]) is one and together(photo, [empty, empty]).pixels.size == 0


def test_what_cannot_be(pipeline, couple, tmp_path):
    with pytest.raises(InvalidInputError, match="at least one turn"):
        pipeline.dialogue_to_file(couple, [], tmp_path / "out.mp4")
    with pytest.raises(FaceError, match="face_index 2 asked for"):
        pipeline.dialogue_to_file(couple, [(0, spoken(0.2)), (2, spoken(0.2))], tmp_path / "out.mp4", 1)
    assert not (tmp_path / "out.mp4").exists()


def test_the_command(temposync, couple, make_speech, tmp_path):
    one, two, out = make_speech("a=b.wav", 0.6), make_speech("b.wav", 0.6), tmp_path / "out.mp4"
    code, printed, err = temposync(
        "generate", "--image", couple, "--speaker", f"0={one}", "--speaker", f"1={two}", "--output", out, "--steps", 1)
    assert (code, printed, err) == (0, [str(out)], []) and out.exists()


@pytest.mark.parametrize("arguments, words", [
    (("--speaker", "0"), "0=hello.wav"), (("--speaker", "=a.wav"), "0=hello.wav"), (("--speaker", "-1=a.wav"), "0=hello.wav"),
    (("--speaker", "0=none.wav"), "none.wav: no such file"), ((), "--audio"),
    (("--speaker", "0=a.wav", "--audio", "a.wav"), "exclude each other")])
def test_the_command_says_what_is_wrong(temposync, couple, arguments, words):
    code, _, err = temposync("generate", "--image", couple, *arguments)
    assert code == 2 and len(err) == 1 and words in err[0]


def test_a_dialogue_makes_no_latents(temposync, couple, make_speech, tmp_path):
    voice = make_speech("a.wav", 0.2)
    code, _, err = temposync("generate", "--image", couple, "--speaker", f"0={voice}", "--output", tmp_path / "a.safetensors")
    assert code == 2 and "mp4" in err[0]
