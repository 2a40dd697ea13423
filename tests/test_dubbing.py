"""Dubbing: who speaks in a film, with which mouth, and what stays as it is."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from temposync_pipeline import FaceError, InvalidInputError
from temposync_pipeline.face.crop import align_matrix, transform_points
from temposync_pipeline.media.footage import Footage
from temposync_pipeline.media.planes import arrays_of, to_planes
from temposync_pipeline.media.video import VideoWriter, read_video
from temposync_pipeline.models.face_aligner import Face
from temposync_pipeline.pipelines import dubbing
from temposync_pipeline.pipelines.dubbing import _read_between, _with_neighbours
from temposync_pipeline.pipelines.person import Person
from temposync_pipeline.pipelines.pipeline_temposync import TempoSyncPipeline
from temposync_pipeline.pipelines.speech import Speech
from temposync_pipeline.provenance.credentials import read_credentials
from temposync_pipeline.provenance.verify import read_comment

from .tiny_components import picture, ready, spoken, template_face, tiny_inner_vae, tiny_motion_vae, tiny_pipeline

pytestmark = pytest.mark.makes_videos

SIZE = 128


@pytest.fixture(scope="module")
def pipeline() -> TempoSyncPipeline:
    """Every picture shows a face, the template, but those of one colour, which coding leaves nearly so."""
    pipeline = tiny_pipeline()
    pipeline.face_aligner.detect = lambda frame, *_: template_face(frame) if np.ptp(frame) > 20 else []
    pipeline.face_aligner.read_again = lambda frame, pose: (pipeline.face_aligner.detect(frame) or [None])[0]
    return pipeline


def scene(number: int) -> np.ndarray:
    """A face's place that slowly gets lighter."""
    return np.clip(picture(SIZE, SIZE).astype(int) + number, 0, 255).astype(np.uint8)


@pytest.fixture
def write_film(tmp_path):
    def write(pictures, fps=25, name="film.mp4", times=None):
        with VideoWriter(tmp_path / name, fps, tick=None if times is None else Fraction(1, 1000)) as writer:
            for number, frame in enumerate(pictures):
                if times is None:
                    writer.write(frame)
                else:
                    writer.write_planes(to_planes(frame), times[number], times[number + 1] - times[number])
        return tmp_path / name

    return write


def run(pipeline, film, **changes):
    arguments = {"audio": spoken(0.4), "num_inference_steps": 2, "generator": torch.Generator().manual_seed(7), "output_type": "np"}
    return pipeline.dub(film, **arguments | changes)


@pytest.mark.parametrize("fps", [25, 50])
def test_the_video_ends_with_the_sound_at_its_own_rate(pipeline, write_film, fps):
    film = write_film([scene(number) for number in range(30)], fps)
    output = run(pipeline, film)
    assert output.frames.shape == (round(0.4 * fps), SIZE, SIZE, 3) and output.fps == fps
    assert np.allclose(output.times, np.arange(round(0.4 * fps)) / fps) and output.visemes.shape == (len(output.frames), 15)


def test_only_the_mouth_changes(pipeline, write_film):
    film = write_film([scene(number) for number in range(10)])
    frames = run(pipeline, film).frames
    footage = Footage(film)
    originals = np.stack([footage.picture(frame.planes) for frame in footage.frames(0.4)]) / np.float32(255)
    rows, columns = np.nonzero(np.abs(frames - originals).max((0, 3)) > 1e-6)
    # The template face fills the picture; its mouth's block spans rows 0.51 to 0.97 and columns 0.17 to 0.83.
    assert len(rows) and rows.min() > 0.5 * SIZE and columns.min() > 0.15 * SIZE and columns.max() < 0.85 * SIZE


def test_stages_at_the_same_time_give_the_same_file(pipeline, write_film, tmp_path, monkeypatch):
    film = write_film([scene(number) for number in range(12)])

    def dubbed(name: str) -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        pipeline.dub_to_file(film, spoken(0.6), tmp_path / name, 2, generator, progress=False, chunk_size=4, provenance=False)
        return read_video(tmp_path / name)[0]

    together = dubbed("together.mp4")
    monkeypatch.setattr(dubbing, "ahead", lambda items, count: items)
    assert np.array_equal(together, dubbed("apart.mp4")) and len(together) == 15


def test_every_frame_is_made_of_itself(pipeline, write_film):
    """The mouth's colours follow the film's light: frame and original get lighter together."""
    frames = run(pipeline, write_film([scene(8 * number) for number in range(10)])).frames
    mouth = frames[:, int(0.6 * SIZE):int(0.9 * SIZE), int(0.3 * SIZE):int(0.7 * SIZE)].mean((1, 2, 3))
    assert (np.diff(mouth) > 0.01).all()


@pytest.mark.parametrize("make_vae", [tiny_motion_vae, tiny_inner_vae])
def test_a_still_film_is_the_portrait(write_film, make_vae):
    """Of a film that never moves comes what the portrait gives: the same denoiser, told the same."""
    pipeline = tiny_pipeline()
    pipeline.vae = make_vae()
    ready(pipeline)
    pipeline.face_aligner.read_again = lambda frame, pose: template_face(frame)[0]
    film = write_film(10 * [scene(0)])
    footage = Footage(film)
    photo = footage.picture(next(footage.frames(0.1)).planes)
    dubbed = run(pipeline, film).frames
    portrait = pipeline(photo, spoken(0.4), 2, torch.Generator().manual_seed(7), output_type="np").frames
    assert dubbed.shape == portrait.shape and not np.array_equal(dubbed[0], dubbed[-1])
    # The film was coded: its frames are not alike to the level.
    assert np.abs(dubbed - portrait).mean() < 0.01


def test_mouth_amplitude_and_seed_count(pipeline, write_film):
    film = write_film([scene(number) for number in range(6)])
    once, twice, other = (run(pipeline, film, audio=spoken(0.3), **change).frames for change in (
        {}, {"mouth_amplitude": 2.0}, {"generator": torch.Generator().manual_seed(8)}))
    again = run(pipeline, film, audio=spoken(0.3), chunk_size=2).frames
    assert not np.array_equal(once, twice) and not np.array_equal(once, other) and np.abs(once - again).max() <= 1.01 / 255


def test_frames_of_uneven_length_follow_the_sound_at_their_own_moments(pipeline, write_film, monkeypatch):
    """Latents are read at the middle of each frame's time, whatever the frames before it lasted."""
    times = [Fraction(ms, 1000) for ms in (0, 40, 160, 200, 320, 400)]
    film = write_film([scene(number) for number in range(5)], 12.5, times=times)
    read = []
    monkeypatch.setattr("temposync_pipeline.pipelines.dubbing._read_between", lambda latents_of, moments: (
        read.extend(moments), _read_between(latents_of, moments))[1])
    output = run(pipeline, film, num_inference_steps=1)
    assert np.allclose(output.times, [float(time) for time in times[:-1]])
    assert np.allclose(read, np.array([float(a + b) / 2 for a, b in zip(times, times[1:])]) * 25 - 0.5)


def test_latents_between_frames():
    def of(frames: range) -> torch.Tensor:
        return torch.arange(frames.start, frames.stop, dtype=torch.float32)[:, None, None, None]

    assert _read_between(of, np.array([-0.5, 0.0, 2.0, 2.25])).flatten().tolist() == [-0.5, 0.0, 2.0, 2.25]
    assert _read_between(of, np.array([3.0])).flatten().tolist() == [3.0]


def test_speech_between_frames():
    speech = Speech(np.arange(4, dtype=np.float32)[:, None], lips=2 * np.arange(4, dtype=np.float32)[:, None])
    at = speech.at(np.array([-1.0, 0.0, 0.25, 2.5, 9.0]))
    assert at.visemes[:, 0].tolist() == [0, 0, 0.25, 2.5, 3] and at.lips[:, 0].tolist() == [0, 0, 0.5, 5, 6]


def test_chunks_know_their_neighbours():
    found = list(_with_neighbours(iter(range(7)), 3, 2, 2))
    assert found == [([0, 0], [0, 1, 2], [3, 4]), ([1, 2], [3, 4, 5], [6, 6]), ([4, 5], [6], [6, 6])]
    assert list(_with_neighbours(iter(range(2)), 3, 0, 0)) == [([], [0, 1], [])] and not list(_with_neighbours(iter(()), 3, 1, 1))


def test_frames_without_a_face_stay_or_are_refused(pipeline, write_film, tmp_path, caplog):
    grey = np.full((SIZE, SIZE, 3), 90, np.uint8)
    film = write_film([scene(0), scene(1), grey, grey, scene(4), scene(5)])
    frames = run(pipeline, film, audio=spoken(0.24)).frames
    footage = Footage(film)
    originals = np.stack([footage.picture(frame.planes) for frame in footage.frames(0.24)]) / np.float32(255)
    assert [np.array_equal(*pair) for pair in zip(frames, originals)] == [False, False, True, True, False, False]
    assert [record.getMessage() for record in caplog.records if "frames" in record.getMessage()] == [
        "film.mp4: in 2 of 6 frames the mouth of who is to speak is not to be seen; they stay as they are"]
    with pytest.raises(FaceError, match=r"film.mp4: no face.* at 0.08 s"):
        pipeline.dub_to_file(film, spoken(0.24), tmp_path / "out.mp4", 1, no_face="error")
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


def test_a_film_without_anybody_leaves_no_file(pipeline, write_film, tmp_path):
    film = write_film(4 * [np.full((SIZE, SIZE, 3), 90, np.uint8)])
    with pytest.raises(FaceError, match="No face found in film.mp4"):
        pipeline.dub_to_file(film, spoken(0.2), tmp_path / "out.mp4", 1)
    film = write_film([*10 * [np.full((SIZE, SIZE, 3), 90, np.uint8)], scene(4), scene(5)])  # who comes when all has been said
    with pytest.raises(FaceError, match="No face found in the first 0.2 s of film.mp4"):
        pipeline.dub_to_file(film, spoken(0.2), tmp_path / "out.mp4", 1)
    with pytest.raises(FaceError, match="shows more than 1 face"):
        pipeline.dub_to_file(write_film([scene(0)]), spoken(0.1), tmp_path / "out.mp4", 1, face_index=1)
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


@pytest.mark.parametrize("option", [{"end": "rewind"}, {"no_face": "skip"}, {"output_type": "latent"}])
def test_unknown_choices_are_refused(pipeline, write_film, option):
    with pytest.raises(InvalidInputError, match="must be one of"):
        run(pipeline, write_film([scene(0)]), **option)


def test_shots_do_not_blend(pipeline, write_film, monkeypatch):
    """Before a cut nothing is known of what comes after it: another second shot leaves the first as it is."""
    monkeypatch.setattr("temposync_pipeline.pipelines.person.SAME_PERSON", -1.0)
    pipeline.register_to_config(latent_smoothing=1.5)
    first, others = [scene(number) for number in range(5)], ([255 - scene(40)] * 5, [255 - scene(0)[::-1]] * 5)
    dubbed = [run(pipeline, write_film(first + other)).frames for other in others]
    alike = [np.abs(a - b).max() < 8 / 255 for a, b in zip(*dubbed)]
    assert alike == 5 * [True] + 5 * [False]


class Faces:
    """An aligner of scripted faces: each has a place (x) and stripes, across or upright, that say who it is."""

    def __init__(self):
        self.there: list[tuple[float, int]] = []

    def face(self, x: float) -> Face:
        face = template_face(np.stack([np.arange(128 * 128).reshape(128, 128) % 256] * 3, -1).astype(np.uint8))[0]
        return Face(face.landmarks + np.float32([x, 0]), face.confidence, face.score)

    def detect(self, image):
        return [self.face(x) for x, _ in self.there]

    def read_again(self, image, pose):
        near = [x for x, _ in self.there if abs(x + 64 - pose[0]) < 40]
        return self.face(near[0]) if near else None

    def picture(self) -> np.ndarray:
        canvas = np.full((128, 640, 3), 40, np.uint8)
        for x, who in self.there:
            stripes = np.where(np.arange(128) // 8 % 2, 220, 60)
            canvas[:, int(x):int(x) + 128] = (stripes[None, :] if who else stripes[:, None])[..., None]
        return canvas


def look(crop: np.ndarray) -> torch.Tensor:
    """Who it is, by the direction of the stripes."""
    middle = torch.from_numpy(crop[64:192, 64:192, 0].astype(np.float32))
    return torch.nn.functional.normalize(torch.stack([middle.diff(dim=axis).abs().mean() for axis in (0, 1)]), dim=0)


def test_one_person_is_followed_and_known_again():
    faces, found = Faces(), []
    person = Person(faces, look)
    # Anna, then Ben walks in, larger; Anna leaves; only Ben; Anna is back, elsewhere.
    for there in (*10 * [[(0, 0)]], *12 * [[(300, 1), (4, 0)]], *3 * [[(300, 1)]], *2 * [[(300, 1), (150, 0)]]):
        faces.there = there
        face = person.find(faces.picture())
        found.append(None if face is None else round(float(face.landmarks[:, 0].min())))
    left = round(float(faces.face(0).landmarks[:, 0].min()))
    assert found == 10 * [left] + 12 * [left + 4] + 3 * [None] + 2 * [left + 150]


def test_whoever_takes_the_place_of_the_person_is_noticed():
    faces = Faces()
    person = Person(faces, look)
    faces.there = [(0, 0)]
    assert person.find(faces.picture()) is not None
    faces.there = [(0, 1)]
    found = [person.find(faces.picture()) is not None for _ in range(12)]
    assert not any(found[-3:])


def test_face_index_waits_for_as_many_faces():
    faces = Faces()
    person = Person(faces, look, face_index=1)
    for there, expected in (([(0, 0)], False), ([(0, 0), (300, 1)], True), ([(0, 0)], False), ([(200, 1)], True)):
        faces.there = there
        assert (person.find(faces.picture()) is not None) == expected


def test_the_file_keeps_planes_times_and_labels(pipeline, write_film, tmp_path, monkeypatch):
    film = write_film([scene(number) for number in range(5)], 50)
    written = []
    write = VideoWriter.write_planes
    monkeypatch.setattr(VideoWriter, "write_planes", lambda self, frame, *times: (
        written.append([plane.copy() for plane in arrays_of(frame)]), write(self, frame, *times))[1])
    figures = pipeline.dub_to_file(film, spoken(0.2), tmp_path / "out.mp4", 1, progress=False, provenance=False)
    assert figures == {"output": str(tmp_path / "out.mp4"), "frames": 10, "dubbed": 10, "fps": 50.0, "seconds": 0.2}
    originals = [arrays_of(frame.planes) for frame in Footage(film).frames(0.2)]
    for planes, original in zip(written, originals):
        changed = np.argwhere(planes[0] != original[0])
        assert len(changed) and (changed.min(0) > (0.5 * SIZE, 0.15 * SIZE)).all() and changed[:, 1].max() < 0.85 * SIZE
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].average_rate == 50 and len(container.streams.audio) == 1
    assert read_video(tmp_path / "out.mp4")[0].shape == (10, SIZE, SIZE, 3)


def test_the_mark_lies_around_the_face_and_nowhere_else(pipeline, write_film, tmp_path, monkeypatch):
    film, written = write_film([scene(number) for number in range(5)], 25), []
    write = VideoWriter.write_planes
    monkeypatch.setattr(VideoWriter, "write_planes", lambda self, frame, *times: (
        written.append([plane.copy() for plane in arrays_of(frame)]), write(self, frame, *times))[1])
    for provenance in (True, False):
        generator = torch.Generator().manual_seed(7)
        pipeline.dub_to_file(film, spoken(0.2), tmp_path / "out.mp4", 1, generator, progress=False, provenance=provenance)
    marked, plain, matrix = written[:5], written[5:], align_matrix(template_face(scene(0))[0].landmarks)
    for with_mark, without in zip(marked, plain):
        assert (with_mark[0] != without[0]).any() and np.array_equal(with_mark[1], without[1]) and np.array_equal(with_mark[2], without[2])
        changed = np.argwhere(with_mark[0] != without[0])[:, ::-1].astype(np.float32)
        inside = transform_points(matrix, changed)
        assert inside.min() > -2 and inside.max() < 258


def test_saved_from_memory(pipeline, write_film, tmp_path):
    output = run(pipeline, write_film([scene(number) for number in range(3)], 12.5), end="cut", audio=spoken(0.4))
    output.save(tmp_path / "out.mp4")
    frames, fps = read_video(tmp_path / "out.mp4")
    assert len(frames) == 3 and fps == pytest.approx(12.5)


@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
def test_what_is_saved_from_memory_bears_the_marks_of_a_file(pipeline, write_film, tmp_path, name):
    """The same watermark as `dub_to_file` lays, around the face alone, metadata, and credentials that name the film, were it gone, too."""
    pytest.importorskip("c2pa")
    film = write_film([scene(number) for number in range(6)])
    output = run(pipeline, film, audio=spoken(0.24))
    for provenance in (True, False):
        output.save(tmp_path / name, provenance)
        found = read_credentials(tmp_path / name)
        assert read_comment(tmp_path / name).startswith("AI-generated") and found["found"] == provenance
    assert output.origin.source == film
    mark_of, frames = output.origin.marker(), np.round(255 * output.frames).astype(np.uint8)
    marks, matrix = list(map(mark_of, frames)), align_matrix(template_face(scene(0))[0].landmarks)
    assert len(marks) == 6 and all(np.abs(mark).max() > 0 for mark in marks)
    inside = transform_points(matrix, np.argwhere(marks[0])[:, ::-1].astype(np.float32))
    assert inside.min() > -2 and inside.max() < 258
    film.unlink()
    output.save(tmp_path / name)
    found = read_credentials(tmp_path / name)
    assert found["found"] and found["sources"] == 1 and found["source_type"] == "compositeWithTrainedAlgorithmicMedia"


def test_the_command(temposync, write_film, make_speech, tmp_path):
    film, voice, output, report = write_film([scene(0)] * 5), make_speech("a.wav", 0.3), tmp_path / "out.mp4", tmp_path / "r.json"
    code, out, err = temposync(
        "dub", "--video", film, "--audio", voice, "--output", output, "--steps", 1, "--end", "freeze", "--json", report)
    assert (code, out, err) == (0, [str(output)], []) and len(read_video(output)[0]) in (7, 8) and '"dubbed"' in report.read_text()


@pytest.mark.parametrize("arguments, words", [
    (("--end", "never"), "never"), (("--no_face", "maybe"), "maybe"), (("--steps", 9), "steps"), (("--output", "out.avi"), "mp4")])
def test_the_command_says_what_is_wrong(temposync, write_film, make_speech, arguments, words):
    code, out, err = temposync("dub", "--video", write_film([scene(0)]), "--audio", make_speech("a.wav", 0.3), *arguments)
    assert code == 2 and not out and len(err) == 1 and words in err[0]


def test_a_picture_is_no_film(temposync, make_speech, tmp_path):
    Image.fromarray(scene(0)).save(tmp_path / "a.png")
    code, _, err = temposync("dub", "--video", tmp_path / "a.png", "--audio", make_speech("a.wav", 0.3))
    assert code == 2 and len(err) == 1 and "a.png" in err[0]


def test_the_output_may_not_replace_the_film(pipeline, temposync, write_film, make_speech):
    film = write_film([scene(0)])
    before = film.read_bytes()
    code, _, err = temposync("dub", "--video", film, "--audio", make_speech("a.wav", 0.3), "--output", film)
    assert code == 2 and "replace" in err[0]
    with pytest.raises(InvalidInputError, match="replace"):
        pipeline.dub_to_file(film, spoken(0.2), film)
    assert film.read_bytes() == before
