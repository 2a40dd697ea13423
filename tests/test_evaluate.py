"""The evaluation must give known answers: here the "checkpoint" is a puppet whose lips do exactly what a test says."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from temposync_pipeline import cli
from temposync_pipeline.data import clips as clips_as_seen
from temposync_pipeline.data.manifest import Clip
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.face.crop import TEMPLATE, align_matrix, crop_face, mouth_mask
from temposync_pipeline.face.landmarks import GROUPS, LEFT_IRIS, NUM_LANDMARKS, RIGHT_IRIS, RIGID, lip_opening
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.media.image import load_image
from temposync_pipeline.media.video import VideoWriter, read_video
from temposync_pipeline.metrics import evaluate, protocols
from temposync_pipeline.metrics.clip_selection import MAX_REAL_R, dubbed_pairs, other_voice, spread_over_talkers, uncorrelated_pairs
from temposync_pipeline.metrics.crop_video import VideoMaker, crops_like
from temposync_pipeline.metrics.dubbing import change_in_film, head_error
from temposync_pipeline.metrics.linear_baseline import LinearBaseline
from temposync_pipeline.metrics.protocols import ROWS, Evaluator
from temposync_pipeline.metrics.talking_face import change_outside, closure_figures, lip_figures, sharpness_ratio
from temposync_pipeline.models.face_aligner import FaceAligner
from temposync_pipeline.models.identity_encoder import IdentityEncoder

from .tiny_components import template_face, tiny_denoiser, tiny_pipeline

MEDIA = Path(__file__).parent.parent / "examples" / "media"
SIZE, LENGTH = 160, 18


def face(opening: float, size: int) -> np.ndarray:
    """Landmarks [131, 2] of the puppet in a picture of `size` pixels."""
    points = np.full((NUM_LANDMARKS, 2), 128.0)
    points[RIGID] = TEMPLATE
    points[[RIGHT_IRIS, LEFT_IRIS]] = (90, 80), (166, 80)
    angles = np.linspace(np.pi, -np.pi, 20, endpoint=False)
    for group, height in (("inner_lips", 0), ("outer_lips", 8)):
        points[GROUPS[group]] = np.stack([128 + 26 * np.cos(angles), 185 + (38 * opening + height) * np.sin(angles)], -1)
    return (points * size / 256).astype(np.float32)


def paint(image: np.ndarray, opening: float) -> np.ndarray:
    """The puppet's mouth is as bright as it is open."""
    return cv2.circle(image.copy(), (len(image) // 2, 185 * len(image) // 256), 22 * len(image) // 256, (int(500 * opening),) * 3, -1)


def picture(opening: float, shade: int) -> np.ndarray:
    """`shade` tells people apart."""
    return paint(np.full((SIZE, SIZE, 3), shade, np.uint8), opening)


def read_opening(frame: np.ndarray) -> float:
    row, column, half = 185 * len(frame) // 256, len(frame) // 2, len(frame) // 40
    return float(frame[row - half:row + half, column - half:column + half].mean()) / 500


def track(frames) -> np.ndarray:
    return np.stack([face(read_opening(frame), len(frame)) for frame in frames])


class PerfectAutoencoder(torch.nn.Module):
    """Latents are the pixels themselves, rearranged: nothing is lost."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self):
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(1))  # says where it computes

    def encode(self, pixels):
        return SimpleNamespace(latent=F.pixel_unshuffle(pixels, 16))

    def decode(self, latents):
        return SimpleNamespace(sample=F.pixel_shuffle(latents, 16))


def sound_of_lips(path) -> SimpleNamespace:
    """A sound track, 16 kHz, that is the lip opening of the frames it belongs to."""
    return SimpleNamespace(samples=np.repeat([read_opening(frame) for frame in read_video(path)[0]], 640))


class PuppetPipeline:
    """Speaks what it hears, a sound that is the lip opening itself (`sound_of_lips`), with a lag and a gain."""

    def __init__(self, lag: int = 0, gain: float = 1.0):
        self.lag, self.gain = lag, gain
        self.vae = PerfectAutoencoder()
        self.face_aligner = SimpleNamespace(track=track, detect=lambda photo: [SimpleNamespace(landmarks=track([photo])[0])])
        self.identity_encoder = IdentityEncoder(latent_channels=768, channels=(8, 8, 8)).eval()
        self.scheduler = SimpleNamespace(config=SimpleNamespace(sigma_max=10.0))
        self.denoiser = SimpleNamespace(config=SimpleNamespace(residual_scale=1.0))
        self.config = SimpleNamespace(mouth_amplitude=1.0)

    def hear(self, audio) -> np.ndarray:
        samples, rate = audio
        return np.roll(samples[::rate // 25], self.lag) * self.gain

    def _hear(self, recording) -> SimpleNamespace:
        return SimpleNamespace(visemes=np.eye(15)[np.where(self.hear((recording.samples, 16_000)) < 0.1, 0, 10)])

    def __call__(self, image, audio, num_inference_steps, generator, output_type, mouth_amplitude):
        heard, visemes = self.hear(audio), self._hear(SimpleNamespace(samples=audio[0])).visemes
        crop = crop_face(image, align_matrix(track([image])[0]))
        pixels = torch.from_numpy(np.stack([paint(crop, opening) for opening in heard])).permute(0, 3, 1, 2) / 127.5 - 1
        return SimpleNamespace(frames=self.vae.encode(pixels).latent, visemes=visemes)

    def stream(self, image, audio, num_inference_steps, generator, mouth_amplitude, max_size):
        yield np.stack([paint(image, opening) for opening in self.hear(audio)])

    def dub(self, video, audio, num_inference_steps, generator, output_type, mouth_amplitude, end):
        spoken = [paint(frame, opening) for frame, opening in zip(read_video(video)[0], self.hear(audio))]
        return SimpleNamespace(frames=np.stack(spoken) / np.float32(255), times=np.arange(len(spoken)) / 25)


def evaluator(rows=("noisy", "student", "in_photo", "still", "shuffled_audio", "vae"), **puppet) -> Evaluator:
    return Evaluator(VideoMaker(PuppetPipeline(**puppet)), rows=rows)


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """Two talkers whose lips move differently, on video."""
    monkeypatch.setattr(clips_as_seen, "load_soundtrack", sound_of_lips)
    openings = [0.15 + 0.12 * np.sin(np.arange(LENGTH) * speed) for speed in (0.9, 0.4)]
    made = []
    for name, shade, series in zip("ab", (90, 140), openings, strict=True):
        path = tmp_path / f"{name}.mp4"
        with VideoWriter(path) as writer:
            for opening in series:
                writer.write(picture(opening, shade))
        made.append(Clip(name, name, path, "val"))
    return made


def test_every_row_of_a_perfect_puppet_says_what_it_should(clips):
    record, example = evaluator().self_driven(*clips)
    rows = record["rows"]
    assert list(rows) == ["noisy", "student_4", "in_photo", "still", "shuffled_audio", "vae"]
    student, still, vae = rows["student_4"], rows["still"], rows["vae"]
    assert student["lip_r"] > 0.99 and student["best_lag"] == 0 and student["amplitude_ratio"] == pytest.approx(1, abs=0.05)
    assert rows["in_photo"]["lip_r"] > 0.99 and rows["in_photo"]["change_outside_mouth"] == 0
    assert still["lip_r"] == still["temporal_l1"] == still["flicker_std"] == still["e_warp"] == 0
    assert still["motion_amplitude"] == pytest.approx(0, abs=1e-5)
    assert abs(rows["shuffled_audio"]["lip_r"]) < 0.5 and rows["shuffled_audio"]["lmd"] > 3 * student["lmd"]
    assert student["lmd"] < 0.1 * still["lmd"]
    assert vae["lip_r"] > 0.99 and vae["psnr_mouth"] > 45 and vae["sharpness_ratio"] == 1 and "psnr_vae" not in vae
    assert student["psnr_vae_lips"] > still["psnr_vae_lips"] > rows["noisy"]["psnr_vae_lips"]
    assert rows["noisy"]["psnr_vae"] < 15 and rows["noisy"]["flicker_std"] > 5 * student["flicker_std"] > 0
    assert student["motion_amplitude"] > 0 and student["proxy_csim"] > 0.5 and "proxy_lse_d" not in student
    assert student["opening_sil"] < student["opening_aa"]
    assert set(example.strips) == {"real", "student_4", "still", "shuffled_audio"}


def test_openings_by_what_is_heard_are_measured_in_the_photo_too(clips):
    rows = evaluator(rows=("student", "in_photo")).self_driven(*clips)[0]["rows"]
    for name in ("opening_portrait", "opening_sil", "opening_aa"):
        assert rows["in_photo"][name] == pytest.approx(rows["student_4"][name], abs=0.01)


def test_late_and_timid_lips_are_seen_as_such(clips):
    row = evaluator(rows=("student",), lag=2, gain=0.5).self_driven(*clips)[0]["rows"]["student_4"]
    assert row["best_lag"] == 2 and row["lip_r_at_best_lag"] > 0.95 > row["lip_r"]
    assert row["amplitude_ratio"] == pytest.approx(0.5, abs=0.1)


def test_cross_protocol_tells_whose_lips_are_followed(clips):
    judge = evaluator(rows=("student", "still"))
    pairs = uncorrelated_pairs(clips, [lip_opening(judge.real_landmarks(clip)) for clip in clips])
    assert pairs == [(clips[1], clips[0]), (clips[0], clips[1])]
    rows = judge.cross_driven(*pairs[0], clips[1])[0]["rows"]
    assert rows["student_4"]["lip_r"] > 0.99 and rows["driver_clip"]["lip_r"] > 0.99
    assert abs(rows["student_4_vs_own_clip"]["lip_r"]) < 0.3 and abs(rows["own_clip"]["lip_r"]) < MAX_REAL_R
    assert not {"lmd", "psnr", "psnr_vae"} & set(rows["student_4"])
    assert rows["own_clip"]["proxy_csim"] > rows["driver_clip"]["proxy_csim"]


def test_dubbed_films_say_whose_lips_move_and_what_else_does(clips):
    assert set(evaluator(rows=("dubbed",)).dubbed(*clips)[0]["rows"]) == {"dubbed_4", "dubbed_4_vs_own_clip", "own_clip"}
    judge = evaluator(rows=("dubbed", "student"))
    record, example = judge.dubbed(*clips)
    rows = record["rows"]
    assert set(rows) == {"dubbed_4", "student_4", "dubbed_4_vs_own_clip", "student_4_vs_own_clip", "own_clip"}
    assert set(example.strips) == {"dubbed_4", "student_4"}
    for made in ("dubbed_4", "student_4"):
        assert rows[made]["lip_r"] > 0.99 and abs(rows[f"{made}_vs_own_clip"]["lip_r"]) < 0.3 > abs(rows["own_clip"]["lip_r"])
    assert rows["dubbed_4"]["head_error"] == rows["dubbed_4"]["change_outside_mouth"] == 0
    of_one = [replace(clip, talker="a") for clip in clips]
    openings = [lip_opening(judge.real_landmarks(clip)) for clip in of_one]
    assert uncorrelated_pairs(of_one, openings) == []
    assert uncorrelated_pairs(of_one, openings, strangers=False) == [(of_one[1], of_one[0]), (of_one[0], of_one[1])]


def test_films_get_the_voices_of_the_next_two_other_talkers_whatever_their_lips_do(clips):
    a, b, c = (replace(clips[0], id=talker, talker=talker) for talker in "abc")
    again = replace(a, id="again")
    assert dubbed_pairs([a, b, c, again]) == [(a, b), (b, c), (c, again), (again, b), (a, c), (b, again), (c, a), (again, c)]
    assert dubbed_pairs([a, b]) == [(a, b), (b, a)] and dubbed_pairs([a, again]) == [(a, again), (again, a)]


def test_a_film_and_its_dubbed_frames_are_the_same_ones(clips):
    film, dubbed = evaluator().maker.dubbed(clips[0].video, (np.zeros(640 * LENGTH), 16_000), 4, 300)
    assert film.shape == dubbed.shape and len(film) == LENGTH
    assert [read_opening(frame) > 0.02 for frame in film] == [True] * LENGTH and not any(map(read_opening, dubbed))
    corners = [np.abs(video[:, :40].astype(int) - read_video(clips[0].video)[0][:, :40]).max() for video in (film, dubbed)]
    assert corners == [0, 0]
    assert len(evaluator().maker.dubbed(clips[0].video, (np.zeros(640 * LENGTH), 16_000), 4, 5)[0]) == 5


def test_a_head_out_of_place_and_a_change_beside_the_mouth_are_seen():
    landmarks, frames = np.stack([face(0.2, SIZE), face(0.1, SIZE)]), np.stack([picture(0.2, 90), picture(0.1, 90)])
    assert head_error(landmarks, landmarks) == pytest.approx(0, abs=1e-4)
    assert head_error(landmarks + [3, 4], landmarks) == pytest.approx(5, abs=1e-3)
    smaller = (landmarks - SIZE / 2) * 0.9 + SIZE / 2
    assert 1 < head_error(smaller, landmarks) < 8
    spoken = np.stack([picture(0.4, 90), picture(0.3, 90)])
    assert change_in_film(spoken, frames, landmarks) == 0
    spoken[1, 3, 5, 0] += 7
    assert change_in_film(spoken, frames, landmarks) == 7


def test_real_frames_lie_as_the_portrait_does(clips):
    frames = read_video(clips[0].video)[0]
    portrait = VideoMaker(PuppetPipeline()).portrait(frames[0])
    # Another tracker's landmarks: the same in every frame, but shifted.
    crops = crops_like(portrait, frames, track(frames) + 3.0)
    np.testing.assert_allclose(crops[0].astype(int), portrait.crop, atol=3)


def test_whole_run_writes_report_tables_and_pictures(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "build_evaluator", lambda *_: (evaluator(rows=("student",)), ["a note"]))
    portraits = tmp_path / "portraits"
    portraits.mkdir()
    for name, opening in (("closed", 0.0), ("smiling", 0.2)):
        cv2.imwrite(str(portraits / f"{name}.png"), picture(opening, 100))
    (portraits / "broken.png").write_bytes(b"no picture")
    report = evaluate.run_evaluation(tmp_path, protocol="portraits", portraits=portraits, output=tmp_path / "out.json", rows=["student"])
    assert json.loads((tmp_path / "out.json").read_text()) == report
    assert report["summary"]["student_4"]["lip_r"]["n"] == 2 and report["summary"]["student_4"]["lip_r"]["mean"] > 0.99
    assert report["summary"]["student_4_smiling_portraits"]["lip_r"]["n"] == 1
    assert "broken.png" in report["failures"][0]["name"] and report["seconds"]["student_4"] > 0
    assert set(report["summary"]["student_4"]) <= set(report["figures"])
    table = (tmp_path / "out.md").read_text()
    assert "| lip r ↑ |" in table and "broken.png" in table and "- a note" in table
    for kind in ("lips", "rows", "sheet"):
        assert cv2.imread(str(tmp_path / f"out_{kind}.png")) is not None


def test_a_saved_checkpoint_brings_its_teacher(clips, tmp_path, monkeypatch):
    """Real networks, tiny and untrained: every row is made, the teacher's by the ODE, and what is missing is said."""
    monkeypatch.setattr(FaceAligner, "detect", lambda self, image, max_faces=None: template_face(image))
    monkeypatch.setattr(clips_as_seen, "load_soundtrack", sound_of_lips)
    model = tmp_path / "model"
    speaking = tiny_pipeline()
    speaking.register_to_config(viseme_smoothing=0.8)
    speaking.save_pretrained(model)
    report_without, notes = evaluate.build_evaluator(str(model), [4], 3, list(ROWS), None, "cpu")
    assert report_without.maker.teacher is None and report_without.listener.baselines == {}
    missing = ("`teacher`", "sync expert", "`linear_baseline_visemes`", "`linear_baseline_hidden`", "whether it is late")
    assert all(any(part in note for note in notes) for part in missing)
    tiny_denoiser(mid_layers=2).save_pretrained(model / "teacher")
    judge, notes = evaluate.build_evaluator(str(model), [4], 3, list(ROWS), None, "cpu")
    teacher = judge.maker.teacher
    assert teacher.denoiser.config.mid_layers == 2 and teacher.scheduler.config.prediction == "sde"
    assert teacher.config.viseme_smoothing == 0.8
    assert judge.maker.pipe.scheduler.config.prediction == "consistency" and judge.maker.pipe.denoiser.config.mid_layers == 1
    assert notes[0] == "no proxy LSE and offset: the checkpoint has no sync expert" and not any("teacher" in note for note in notes)
    LinearBaseline("hidden", 32, 4, classifier="of another one").save_pretrained(model / "linear_baseline_hidden")
    LinearBaseline("visemes").save_pretrained(model / "linear_baseline_visemes")
    judge, notes = evaluate.build_evaluator(str(model), [4], 3, ["linear_baseline"], None, "cpu")
    assert list(judge.listener.baselines) == ["visemes"] and judge.listener.offsets is None
    assert "no row `linear_baseline_hidden`: it was fitted to another classifier" in notes


@pytest.mark.torch_only("each process would open every network for itself")
def test_several_processes_report_what_one_does(tmp_path):
    """The bundled checkpoint on two photographs on video, and one without a face; only the seconds differ."""
    for index, name in enumerate(("portrait_man", "portrait_woman", "nobody")):
        photo = np.full((160, 160, 3), 90, np.uint8) if name == "nobody" else load_image(MEDIA / f"{name}.jpg")[::2, ::2]
        samples = load_audio(MEDIA / "speech_hello.wav").samples[16_640 * index:16_640 * (index + 1)]
        (tmp_path / name).mkdir()
        with VideoWriter(tmp_path / name / "clip.mp4", audio_path=(samples, 16_000)) as writer:
            for _ in range(26):
                writer.write(photo)
    reports = [evaluate.run_evaluation(tmp_path, num_inference_steps=(1,), rows=("student", "still"), processes=processes)
               for processes in (1, 2)]
    one, two = ([(record["name"], record["rows"]) for record in report["records"]] for report in reports)
    assert [name for name, _ in one] == [name for name, _ in two] == ["portrait_man_clip", "portrait_woman_clip"]
    for (_, expected), (_, rows) in zip(one, two):
        for row in ("student_1", "still"):
            assert rows[row] == pytest.approx(expected[row], rel=2e-2, abs=2e-2)
    assert [[failure["name"] for failure in report["failures"]] for report in reports] == [["nobody_clip"]] * 2
    assert [set(report["seconds"]) for report in reports] == [{"student_1", "still"}] * 2


def test_clips_are_taken_from_each_talker_in_turn(tmp_path):
    clips = spread_over_talkers([Clip(str(i), talker, tmp_path, "val") for i, talker in enumerate("aaab")])
    assert [clip.talker for clip in clips] == ["a", "b", "a", "a"]
    assert [other_voice(clips, i).talker for i in range(4)] == ["b", "a", "b", "b"]


def test_unusable_arguments_are_named(clips, tmp_path):
    with pytest.raises(InvalidInputError, match="needs a folder"):
        evaluate.run_evaluation(tmp_path, protocol="portraits")
    with pytest.raises(InvalidInputError, match="not a protocol"):
        evaluate.run_evaluation(tmp_path, protocol="other")
    with pytest.raises(InvalidInputError, match="students: not a row"):
        evaluate.run_evaluation(tmp_path, rows=["students"])
    with pytest.raises(InvalidInputError, match="at least 1"):
        evaluate.run_evaluation(tmp_path, num_inference_steps=[4, 0])
    (tmp_path / "one" / "anna").mkdir(parents=True)
    (tmp_path / "one" / "anna" / "clip.mp4").touch()
    with pytest.raises(InvalidInputError, match="clips of two talkers"):
        evaluate.run_evaluation(tmp_path / "one", protocol="cross")
    with pytest.raises(InvalidInputError, match="no face"):
        protocols.fill_gaps(np.full((3, NUM_LANDMARKS, 2), np.nan))


@pytest.mark.parametrize(("options", "message"), [
    (("--steps", "four"), "--num_inference_steps four: expected whole numbers"),
    (("--rows", "student,nobody"), "nobody: not a row (noisy, teacher, student"),
    (("--cross-identity", "--protocol", "portraits"), "not with --protocol portraits"),
])
def test_the_command_names_unusable_options(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as end:
        cli.main(["evaluate", "--manifest", str(tmp_path), "--json", str(tmp_path / "out.json"), *options])
    printed = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and len(printed) == 1 and message in printed[0]


def test_a_report_without_a_face_and_one_without_anything(clips, tmp_path, monkeypatch):
    """Noise has no landmarks, and still makes a report; where no item can be measured, the first reason is the answer."""
    monkeypatch.setattr(evaluate, "build_evaluator", lambda *_: (evaluator(rows=("noisy",)), []))
    report = evaluate.run_evaluation(tmp_path, rows=["noisy"], output=tmp_path / "noise.json")
    assert list(report["summary"]) == ["noisy"] and (tmp_path / "noise.md").exists() and (tmp_path / "noise_rows.png").exists()
    with pytest.raises(InvalidInputError, match="the protocol self makes none of these rows"):
        notes = ["no CSIM: nothing of the kind is installed"]  # why other figures are missing
        monkeypatch.setattr(evaluate, "build_evaluator", lambda *_: (evaluator(rows=("retargeted",)), notes))
        evaluate.run_evaluation(tmp_path, rows=["retargeted"])
    for clip in clips:
        clip.video.write_bytes(b"no video")
    with pytest.raises(InvalidInputError, match=r"nothing could be measured; a\w*: "):
        evaluate.run_evaluation(tmp_path, rows=["noisy"])
    with pytest.raises(InvalidInputError, match="names no row"):
        evaluate.run_evaluation(tmp_path, rows=[])


def test_gaps_take_the_nearest_face():
    complete = np.stack([face(opening, 256) for opening in (0.1, 0.2, 0.3, 0.4)])
    landmarks = complete.copy()
    landmarks[[0, 2]] = np.nan
    filled, missing = protocols.fill_gaps(landmarks)
    assert missing == 2
    np.testing.assert_array_equal(filled, complete[[1, 1, 1, 3]])


def test_figures_of_single_aspects():
    still = np.repeat(face(0.1, 256)[None], 20, 0)
    assert lip_figures(still, still)["motion_amplitude"] == pytest.approx(0, abs=1e-5)
    visemes = np.eye(15)[[0] * 10 + [1] * 10]
    figures = closure_figures(still, visemes)
    assert figures["opening_sil"] == pytest.approx(figures["opening_PP"]) and "opening_aa" not in figures
    crops = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3)).astype(np.uint8)
    assert sharpness_ratio(crops, crops) == pytest.approx(1)
    frames = np.zeros((4, 256, 256, 3), np.uint8)
    frames[::2, 190:200, 120:130] = 50
    identity = np.float32([[1, 0, 0], [0, 1, 0]])
    assert change_outside(frames, identity, mouth_mask()) == 0
    frames[::2, :10] = 50
    assert change_outside(frames, identity, mouth_mask()) > 0
