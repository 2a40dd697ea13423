"""The invisible watermark: where it lies, what it survives, and what is never taken for one."""

import hashlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from temposync_pipeline import __version__
from temposync_pipeline.checkpoints import bundled_path
from temposync_pipeline.cli import main
from temposync_pipeline.face.crop import align_matrix
from temposync_pipeline.media.gif import stream_gif
from temposync_pipeline.media.image import load_image
from temposync_pipeline.media.planes import arrays_of, luma_of, to_planes
from temposync_pipeline.media.video import VideoWriter, read_tags
from temposync_pipeline.models.face_aligner import FaceAligner
from temposync_pipeline.pipelines.pipeline_output import TempoSyncPipelineOutput
from temposync_pipeline.provenance.credentials import is_available
from temposync_pipeline.provenance.origin import Origin, model_identifier
from temposync_pipeline.provenance.reading import FOUND_SCORE, product_score, read_crop, read_watermark
from temposync_pipeline.provenance.verify import verify_video
from temposync_pipeline.provenance.watermark import MovingMark, code, evidence, luma_crop, payload_bits, scores, watermark

from .tiny_components import MEDIA, picture, spoken, tiny_pipeline

pytestmark = pytest.mark.makes_videos

IDENTIFIER = 0xC0FFEE42


@pytest.fixture(scope="module")
def aligner() -> FaceAligner:
    return FaceAligner.from_pretrained(bundled_path("temposync-tiny"), subfolder="face_aligner")


@pytest.fixture(scope="module")
def woman(aligner) -> tuple[np.ndarray, np.ndarray]:
    """A photo uint8 [484, 396, 3] and the way to its crop."""
    photo = cv2.resize(load_image(MEDIA / "portrait_woman.jpg"), (396, 484), interpolation=cv2.INTER_AREA)
    return photo, align_matrix(aligner.detect(photo)[0].landmarks)


def write(path: Path, frames: Iterator[av.VideoFrame], crf: int = 18, fps: int = 25) -> Path:
    with av.open(str(path), "w") as container:
        stream = None
        for number, frame in enumerate(frames):
            if stream is None:
                stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": "veryfast"})
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clip(woman, tmp_path_factory) -> Path:
    """25 marked frames of a lower lip that moves, as they leave."""
    photo, matrix = woman
    mark = watermark(luma_of(photo), matrix, IDENTIFIER)
    frames = []
    for number in range(25):
        frame = photo.copy()
        frame[330:360, 170:230] = np.roll(frame[330:360, 170:230], number % 5, 0)
        frames.append(to_planes(frame, mark))
    return write(tmp_path_factory.mktemp("clip") / "clip.mp4", iter(frames))


def read_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_the_code_stays_what_it_is():
    """Or videos of an older release could not be read any more."""
    digest = hashlib.sha256(code().places.astype("<i4").tobytes() + code().signs.astype("<i1").tobytes())
    assert digest.hexdigest()[:16] == "8dfb1d41365e61b8"
    assert "".join("1" if bit > 0 else "0" for bit in payload_bits(5)) == f"{0x5453445000000005:064b}"
    with pytest.raises(ValueError, match="32 bits"):
        payload_bits(2**32)


def test_nothing_changes_outside_the_crop(woman):
    photo, matrix = woman
    mark = watermark(luma_of(photo), matrix, IDENTIFIER)
    inside = cv2.warpAffine(np.ones((256, 256), np.uint8), matrix, mark.shape[::-1], flags=cv2.WARP_INVERSE_MAP | cv2.INTER_NEAREST) > 0
    assert not mark[~inside].any() and (mark[inside] != 0).mean() > 0.3
    plain, marked = (to_planes(photo, levels).to_ndarray() for levels in (None, mark))
    luma = marked[:photo.shape[0]] != plain[:photo.shape[0]]
    assert not luma[~inside].any() and np.array_equal(plain[photo.shape[0]:], marked[photo.shape[0]:])
    assert 20 * np.log10(255 / np.sqrt(np.square(mark[inside], dtype=float).mean())) > 41


def test_every_bit_is_far_from_error_before_encoding(woman):
    photo, matrix = woman
    luma = luma_of(photo)
    for identifier in (0, 2**32 - 1, IDENTIFIER):
        marked = cv2.add(luma, watermark(luma, matrix, identifier), dtype=cv2.CV_8U)
        assert (scores(evidence(luma_crop(marked, matrix))) * payload_bits(identifier)).min() > 3


@pytest.mark.parametrize("change", [(9.0, -7.0, 1.0, 0.0), (-11.0, 3.0, 1.01, 0.6), (0.4, 0.6, 0.988, -0.9)])
def test_landmarks_need_not_be_exact(change, woman):
    """Off by pixels of the crop, by size and by degrees."""
    photo, matrix = woman
    luma = luma_of(photo)
    marked = cv2.add(luma, watermark(luma, matrix, IDENTIFIER), dtype=cv2.CV_8U)
    x, y, size, degrees = change
    off = np.vstack([cv2.getRotationMatrix2D((128, 128), degrees, size) + [[0, 0, x], [0, 0, y]], [0, 0, 1]])
    reading = read_crop(marked, (off @ np.vstack([matrix, [0, 0, 1]]))[:2])
    assert reading.is_marked and reading.identifier == IDENTIFIER
    assert np.abs(reading.matrix - matrix).max() < 1


@pytest.mark.parametrize("treatment", ["as written", "crf 28", "half", "cut", "15 fps", "brighter"])
def test_survives(treatment, clip, aligner, tmp_path):
    """All 64 bits, read by someone who has neither the photo nor the way to its crop."""
    frames, crf, fps = read_frames(clip), 23, 25
    if treatment == "crf 28":
        crf = 28
    elif treatment == "half":
        frames = [cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for frame in frames]
    elif treatment == "cut":
        frames = [frame[48:-48, 40:-38] for frame in frames]
    elif treatment == "15 fps":
        frames, fps = [frames[number * 5 // 3] for number in range(15)], 15
    elif treatment == "brighter":
        frames = [np.clip(1.2 * frame.astype(float) - 10, 0, 255).astype(np.uint8) for frame in frames]
    path = clip if treatment == "as written" else write(tmp_path / "again.mp4", map(to_planes, frames), crf, fps)
    reading = read_watermark(path, aligner)
    assert reading.is_marked and reading.identifier == IDENTIFIER and reading.false_alarm < 1e-9
    assert (reading.bits * payload_bits(IDENTIFIER)).min() > 0


def test_a_mark_is_found_in_some_seconds_of_a_longer_video_and_on_a_face_that_moves(woman, clip, aligner, tmp_path):
    """Five seconds of somebody else first; then a circling camera, whose pictures' mean shows nothing."""
    other = cv2.resize(load_image(MEDIA / "portrait_man.jpg"), (396, 484))
    marked = read_frames(clip)[0]
    shown = [other] * 25 + [np.roll(marked, (round(25 * np.sin(angle)), round(25 * np.cos(angle))), (0, 1)) for angle in np.arange(25) / 4]
    reading = read_watermark(write(tmp_path / "pan.mp4", map(to_planes, shown), fps=5), aligner)
    assert reading.is_marked and reading.identifier == IDENTIFIER


def test_no_mark_is_found_where_there_is_none(woman, aligner, tmp_path):
    photo, _ = woman
    reading = read_watermark(write(tmp_path / "real.mp4", iter([to_planes(photo)] * 5)), aligner)
    assert not reading.is_marked and reading.score < FOUND_SCORE - 2 and reading.false_alarm > 0.01
    assert read_watermark(write(tmp_path / "wall.mp4", iter([to_planes(picture(96, 96))] * 5)), aligner) is None


def test_scores_without_a_mark_are_those_of_chance():
    """Of pictures with the spectrum of photographs: mean 0 and deviation 1, so that the bound on false alarms holds."""
    rng, frequency = np.random.default_rng(0), np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)) + 1 / 256
    found = []
    for _ in range(200):
        noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((256, 256))) / frequency**1.5)
        found.append(product_score(evidence((128 + 40 * noise / noise.std()).astype(np.float32))))
    assert abs(np.mean(found)) < 0.2 and 0.85 < np.std(found) < 1.15 and np.max(np.abs(found)) < 4.5
    assert read_crop(np.full((300, 300), 90, np.uint8), np.eye(2, 3)).score < FOUND_SCORE


@pytest.fixture
def handed_over(monkeypatch) -> dict[str, list[list[np.ndarray]]]:
    """Planes of each file's frames as its encoder gets them: what that makes of them depends on how many threads it may start."""
    planes: dict[str, list[list[np.ndarray]]] = {}
    write = VideoWriter.write_planes

    def keep(writer: VideoWriter, frame: av.VideoFrame, *times: Fraction) -> None:
        planes.setdefault(writer.path.name, []).append([plane.copy() for plane in arrays_of(frame)])
        write(writer, frame, *times)

    monkeypatch.setattr(VideoWriter, "write_planes", keep)
    return planes


def test_files_are_marked_unless_told_otherwise_and_frames_never_are(tmp_path, handed_over):
    pipeline = tiny_pipeline()
    output = pipeline(picture(300, 260), spoken(), num_inference_steps=1, output_type="np")
    assert output.origin.model == "custom"
    output.save(tmp_path / "marked.mp4")
    output.save(tmp_path / "plain.mp4", provenance=False)
    with VideoWriter(tmp_path / "frames.mp4", audio_path=spoken()) as writer:
        for frame in output.frames:
            writer.write(np.rint(255 * frame).astype(np.uint8))
    lumas, *chromas = ([np.stack([frame[plane] for frame in handed_over[name]]) for name in ("marked.mp4", "plain.mp4", "frames.mp4")]
                       for plane in range(3))
    assert all(np.array_equal(plain, frames) for _, plain, frames in (lumas, *chromas))
    assert not np.array_equal(*lumas[:2]) and all(np.array_equal(*chroma[:2]) for chroma in chromas)
    marked = read_frames(tmp_path / "marked.mp4")
    bits = scores(evidence(luma_crop(luma_of(marked[0]), output.origin.matrix)))
    assert ((bits > 0) == (payload_bits(model_identifier("custom", "")) > 0)).all()
    output.save(tmp_path / "marked.gif")
    said = f"AI-generated: temposync-pipeline {__version__}, model custom"
    assert read_tags(tmp_path / "marked.mp4")["comment"] == read_tags(tmp_path / "plain.mp4")["comment"] == said
    assert Image.open(tmp_path / "marked.gif").info["comment"].decode() == said and "comment" not in read_tags(tmp_path / "frames.mp4")
    assert verify_video(tmp_path / "plain.mp4")["marked"]


def test_verify_says_what_it_found_with_an_exit_code(woman, clip, tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("no video")
    photo, matrix = woman
    origin = Origin("temposync-tiny", "0.1.0", photo, matrix)
    ours = write(tmp_path / "ours.mp4", iter([to_planes(photo, origin.watermark())] * 3))
    real = write(tmp_path / "real.mp4", iter([to_planes(photo)] * 3))
    for path, status, said in ((ours, 0, "model temposync-tiny"), (clip, 0, "identifier c0ffee42"), (real, 1, "watermark: none")):
        with pytest.raises(SystemExit) as ended:
            main(["verify", str(path)])
        assert ended.value.code == status and said in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(tmp_path / "text.mp4")])
    assert ended.value.code == 2 and "not an audio or video file" in capsys.readouterr().err
    assert verify_video(ours)["watermark"]["model"] == "temposync-tiny"


def test_a_gif_bears_the_same_marks(woman, tmp_path, capsys):
    photo, matrix = woman
    output = TempoSyncPipelineOutput(
        frames=[Image.fromarray(np.roll(photo, number, axis=1)) for number in (0, 1)], visemes=np.zeros((2, 15)), fps=25,
        origin=Origin("temposync-tiny", "0.1.0", photo, matrix))
    output.save(tmp_path / "marked.gif")
    output.save(tmp_path / "plain.gif", provenance=False)
    output.frames[0].quantize(256).save(tmp_path / "real.gif")
    (tmp_path / "marked.gif").rename(tmp_path / "renamed.mp4")
    marked = verify_video(tmp_path / "renamed.mp4")
    assert marked["watermark"]["model"] == "temposync-tiny" and marked["watermark"]["score"] > 15 and marked["metadata"]["found"]
    if is_available():
        assert marked["credentials"]["state"] == "Valid" and marked["credentials"]["model"] == "temposync-tiny 0.1.0"
    for name, status, said in (("plain.gif", 0, "metadata: AI-generated"), ("real.gif", 1, "metadata: none")):
        with pytest.raises(SystemExit) as ended:
            main(["verify", str(tmp_path / name)])
        out = capsys.readouterr().out
        assert ended.value.code == status and said in out and "watermark: none" in out


@pytest.mark.parametrize("damage", [lambda data: data[:6], lambda data: data[:200], lambda data: b"GIF89a" + b"\xff" * 7 + data[13:]])
def test_a_gif_that_cannot_be_read_is_refused_in_one_sentence(tmp_path, capsys, damage):
    Image.fromarray(picture(64, 64)).save(tmp_path / "whole.gif")
    (tmp_path / "bad.gif").write_bytes(damage((tmp_path / "whole.gif").read_bytes()))
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(tmp_path / "bad.gif")])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and "bad.gif: " in error and str(tmp_path) not in error


def test_pictures_of_a_gif_are_those_on_display(tmp_path):
    shades = [Image.new("L", (40, 40), 10 * number) for number in range(6)]
    shades[0].save(tmp_path / "a.gif", save_all=True, append_images=shades[1:], duration=[400, 40, 40, 40, 80, 0])
    assert [frame[0, 0, 0] for frame in stream_gif(tmp_path / "a.gif", 5)] == [0, 10, 50]


def test_the_mark_of_a_face_that_moves_is_where_the_face_is(woman):
    photo, matrix = woman
    mark, found = MovingMark(IDENTIFIER), 0
    for step in range(6):
        shift = np.float32([[1, 0, 5 * step], [0, 1, 3 * step]])
        luma = luma_of(cv2.warpAffine(photo, shift, photo.shape[1::-1], borderMode=cv2.BORDER_REPLICATE))
        moved = matrix.copy()
        moved[:, 2] -= matrix[:, :2] @ shift[:, 2]
        marked = luma.copy()
        mark.lay(marked, moved, shot=0)
        assert (marked != luma).any() and np.abs(marked.astype(int) - luma).max() < 30
        found = found + evidence(luma_crop(marked, moved))
    assert np.array_equal(np.sign(scores(found)), payload_bits(IDENTIFIER))
    steady = np.abs(watermark(luma_of(photo), matrix, IDENTIFIER)).mean()
    assert 0.6 * steady < np.abs(marked.astype(int) - luma).mean() < steady


def test_verify_does_not_speak_of_a_file_that_shows_nothing(tmp_path, command_line):
    """Cut off after its index: no mark was found, as nothing was looked at."""
    with VideoWriter(tmp_path / "a.mp4") as writer:
        for _ in range(3):
            writer.write(picture(64, 96))
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[:content.index(b"mdat") + 8])
    assert command_line("verify", tmp_path / "a.mp4")[0] == 1
    code, out, err = command_line("verify", tmp_path / "cut.mp4")
    assert (code, out, err[-1]) == (2, [], "temposync: cut.mp4: no frame could be decoded")
