import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from temposync_pipeline import FaceError, InvalidInputError, TempoSyncPipeline, cli
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.media.video import read_video
from temposync_pipeline.models.conditioning import (
    quiet_faint_motion,
    sharpen_motion,
    smooth_latents,
    smooth_visemes,
    smoothing_reach,
    smoothing_stride,
)
from temposync_pipeline.models.precision import has_fast_bfloat16
from temposync_pipeline.models.viseme_classifier import Hearing
from temposync_pipeline.pipelines.latent_video import LatentVideo
from temposync_pipeline.schedulers.scheduling_temposync import TempoSyncScheduler

from .tiny_components import picture, ready, spoken, tiny_pipeline

pytestmark = pytest.mark.makes_videos


@pytest.fixture(scope="module")
def pipeline() -> TempoSyncPipeline:
    return tiny_pipeline()


def silence(frames: int = 8) -> Hearing:
    return Hearing(np.eye(15, dtype=np.float32)[np.zeros(frames, int)], np.zeros((frames, 32), np.float32), np.zeros(frames, np.float32))


def run(pipeline: TempoSyncPipeline, **changes):
    arguments = {"image": picture(200, 300), "audio": spoken(), "num_inference_steps": 2, "output_type": "np",
                 "generator": torch.Generator().manual_seed(7)} | changes
    return pipeline(**arguments)


def test_one_frame_per_fortieth_of_a_second_in_the_photos_size(pipeline):
    output = run(pipeline)
    assert output.frames.shape == (15, 200, 300, 3) and output.visemes.shape == (15, 15) and output.fps == 25
    assert output.frames.min() >= 0 and output.frames.max() <= 1


def test_only_the_lower_face_changes(pipeline):
    frames, photo = run(pipeline).frames, picture(200, 300) / 255
    changed = np.abs(frames - photo.astype(np.float32)).max((0, 3)) > 1e-6
    rows, columns = np.nonzero(changed)
    # The template face fills the 200 px square at the picture's left; its mouth block spans rows 0.53 to 0.97 and columns 0.19 to 0.81.
    assert len(rows) and rows.min() > 0.5 * 200 and columns.min() > 0.15 * 200 and columns.max() < 0.85 * 200


def test_the_seed_decides_the_frames(pipeline):
    first, again = run(pipeline).frames, run(pipeline).frames
    other = run(pipeline, generator=torch.Generator().manual_seed(8)).frames
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_chunks_and_streaming_give_the_same_frames(pipeline):
    whole = run(pipeline, chunk_size=64).frames
    small = np.concatenate(list(pipeline.stream(picture(200, 300), spoken(), 2, torch.Generator().manual_seed(7), chunk_size=4)))
    assert small.shape == whole.shape
    assert np.abs(small / 255 - whole).max() <= 1 / 255 + 1e-6


def test_mouth_amplitude_scales_the_motion_away_from_rest(pipeline):
    still, once, twice = (run(pipeline, output_type="latent", mouth_amplitude=value).frames for value in (0.0, 1.0, 2.0))
    assert torch.allclose(still[0], still[-1], atol=1e-5)
    assert not torch.allclose(once[0], once[-1], atol=1e-5)
    assert torch.allclose(twice - still, 2 * (once - still), atol=1e-4)


def test_a_closed_mouth_is_at_rest_as_the_photo_shows_it(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline.viseme_classifier, "listen", lambda *_: iter([silence()]))
    parted = run(pipeline, image=picture(256, 256), output_type="latent").frames
    monkeypatch.setattr("temposync_pipeline.pipelines.talking_head_base.lip_opening", lambda landmarks: 0.01)
    closed = run(pipeline, image=picture(256, 256), output_type="latent").frames
    assert torch.allclose(closed, closed[:1].expand_as(closed)) and torch.allclose(parted, parted[:1].expand_as(parted), atol=1e-5)
    with torch.inference_mode():
        reference = pipeline.prepare_portrait(picture(256, 256)).latents
    assert torch.allclose(closed[0], reference[0], atol=1e-5) and not torch.allclose(parted[0], reference[0], atol=1e-2)


def test_the_motion_scale_of_the_weights_multiplies_the_amplitude(pipeline):
    plain = run(pipeline, output_type="latent", mouth_amplitude=2.0).frames
    try:
        pipeline.denoiser.register_to_config(motion_scale=2.0)
        assert torch.equal(run(pipeline, output_type="latent", mouth_amplitude=1.0).frames, plain)
    finally:
        pipeline.denoiser.register_to_config(motion_scale=1.0)


def test_visemes_are_smoothed_over_time():
    jump = np.eye(15, dtype=np.float32)[[0] * 6 + [10] * 6]
    smooth = smooth_visemes(jump, 0.5)
    assert np.allclose(smooth.sum(1), 1) and smooth[5, 10] == pytest.approx(np.exp(-2) / (1 + 2 * np.exp(-2)), rel=1e-2)
    assert np.array_equal(smooth[[0, -1]], jump[[0, -1]]) and smooth_visemes(jump, 0) is jump


@pytest.fixture
def smoothing(pipeline, monkeypatch):
    """The pipeline with its latents smoothed over time before the last step, in float32: bfloat16 rounds few frames in another way than
    many."""
    monkeypatch.setattr(pipeline, "use_bfloat16", False)
    pipeline.register_to_config(latent_smoothing=1.0)
    yield pipeline
    pipeline.register_to_config(latent_smoothing=0.0)


@pytest.mark.parametrize(("sigma", "taken"), [(1.0, 19), (1.5, 12)])
def test_smoothed_latents_steady_the_motion_and_keep_rest_and_chunks(smoothing, monkeypatch, sigma, taken):
    """Whole chunks and small ones agree, since of every second frame it is the same ones that are taken."""
    def latents(**changes):
        return run(smoothing, output_type="latent", num_inference_steps=3, **changes).frames

    smoothing.register_to_config(latent_smoothing=sigma)
    smooth, seen = latents(chunk_size=64), []
    for chunk_size in (3, 4):
        assert torch.allclose(smooth, latents(chunk_size=chunk_size), atol=1e-4)
    latents(chunk_size=15, callback_on_step_end=lambda pipe, step, timestep, tensors: seen.append(len(tensors["latents"])))
    assert seen == [taken, taken, 15]
    smoothing.register_to_config(latent_smoothing=0.0)
    assert smooth.diff(dim=0).abs().mean() < latents().diff(dim=0).abs().mean()
    smoothing.register_to_config(latent_smoothing=sigma)
    monkeypatch.setattr(smoothing.viseme_classifier, "listen", lambda *_: iter([silence()]))
    still = latents()
    assert torch.allclose(still, still[:1].expand_as(still), atol=1e-5)


@pytest.mark.parametrize("sigma", [1.0, 1.5])
@pytest.mark.parametrize("in_place", [False, True])
def test_what_a_callback_changes_lasts_for_all_frames(smoothing, sigma, in_place):
    """Also for those that the steps before the last leave out."""
    smoothing.register_to_config(latent_smoothing=sigma)
    seen = []

    def silence_all(pipe, step, timestep, tensors):
        seen.append(tensors["visemes"].clone())
        if step == 0:
            return {"visemes": tensors["visemes"].fill_(0.25) if in_place else torch.full_like(tensors["visemes"], 0.25)}

    steps = {"num_inference_steps": 3, "chunk_size": 64}
    changed = run(smoothing, callback_on_step_end=silence_all, callback_on_step_end_tensor_inputs=["visemes"], **steps)
    assert all((visemes == 0.25).all() for visemes in seen[1:]) and len(seen[2]) == 15
    assert not np.array_equal(changed.frames, run(smoothing, **steps).frames)


def test_neither_one_step_nor_the_teachers_many_are_smoothed(smoothing):
    def frames(steps: int) -> torch.Tensor:
        return run(teacher, output_type="latent", num_inference_steps=steps).frames

    for scheduler, steps in ((smoothing.scheduler, 1), (TempoSyncScheduler(prediction="sde"), 4)):
        teacher = TempoSyncPipeline(**smoothing.components | {"scheduler": scheduler}, latent_smoothing=1.0)
        smoothed = frames(steps)
        teacher.register_to_config(latent_smoothing=0.0)
        assert torch.equal(smoothed, frames(steps))


def test_smoothing_is_saved_and_must_be_a_length_of_time(smoothing, tmp_path):
    smoothing.save_pretrained(tmp_path)
    assert TempoSyncPipeline.from_pretrained(tmp_path).config.latent_smoothing == 1.0
    for setting in ("viseme_smoothing", "latent_smoothing"):
        for value in (-1.0, float("nan"), 1000.0, "x"):
            with pytest.raises(InvalidInputError, match=f"{setting}.*frames"):
                TempoSyncPipeline(**smoothing.components, **{setting: value})


def test_faint_motion_is_quieted_and_strong_motion_kept():
    motion = torch.tensor([0.0, 0.1, 0.3, 3.0])[None, None, :, None].repeat(1, 2, 1, 1)
    motion[:, 1] *= -1
    quieted = quiet_faint_motion(motion, 0.3)
    assert torch.allclose(quieted[0, 0, :, 0], torch.tensor([0.0, 0.01, 0.15, 3.0 * 100 / 101]))
    assert torch.equal(quieted[:, 1], -quieted[:, 0])
    assert torch.equal(quiet_faint_motion(motion, 0.0), motion) and torch.equal(quiet_faint_motion(motion, 1e-30), motion)


def test_the_motion_floor_steadies_the_mouth_but_not_its_amplitude(pipeline):
    def moved(**changes):
        frames = run(pipeline, output_type="latent", **changes).frames
        return frames - run(pipeline, output_type="latent", mouth_amplitude=0.0).frames

    plain = moved()
    try:
        pipeline.register_to_config(motion_floor=0.5)
        quieted, doubled = moved(), moved(mouth_amplitude=2.0)
    finally:
        pipeline.register_to_config(motion_floor=0.0)
    assert 0 < quieted.abs().mean() < plain.abs().mean()
    assert torch.allclose(doubled, 2 * quieted, atol=1e-4)


def test_the_motion_floor_is_saved_and_must_be_a_share_of_the_motion(pipeline, tmp_path):
    TempoSyncPipeline(**pipeline.components, motion_floor=0.25).save_pretrained(tmp_path)
    assert TempoSyncPipeline.from_pretrained(tmp_path).config.motion_floor == 0.25
    for value in (-0.1, float("nan"), 2, "x", True):
        with pytest.raises(InvalidInputError, match="motion_floor"):
            TempoSyncPipeline(**pipeline.components, motion_floor=value)


def test_sharpened_motion_is_what_smoothing_leaves_as_it_was():
    times = np.arange(200)
    slow = np.sin(2 * np.pi * times / 25).astype(np.float32)[:, None]
    smoothed, blurred = (smooth_latents(torch.from_numpy(motion).reshape(-1, 1, 1, 1), range(200), range(2, 198), 1.0).flatten().numpy()
                         for motion in (sharpen_motion(slow, 1.0**2 / 2), slow))
    inside = slow[2:-2, 0]
    assert np.abs(smoothed - inside)[5:-5].max() < 0.2 * np.abs(blurred - inside)[5:-5].max()
    assert np.array_equal(sharpen_motion(slow, 0.0), slow) and sharpen_motion(slow, 1.0).dtype == np.float32
    still = np.full((5, 2), 0.3, np.float32)
    assert np.array_equal(sharpen_motion(still, 1.0), still)


def test_smooth_latents_is_a_weighted_mean_over_time():
    frames = torch.zeros(7, 1, 1, 1)
    frames[3] = 1.0
    near, far = np.exp(-0.5), np.exp(-2)
    total = 1 + 2 * near + 2 * far
    assert smooth_latents(frames, range(7), range(2, 5), 1.0).flatten().tolist() == pytest.approx([near / total, 1 / total, near / total])
    assert torch.equal(smooth_latents(frames, range(7), range(7), 0.0), frames)


def test_of_smoothed_motion_every_second_frame_is_enough():
    times = np.arange(-10, 210)
    slow = torch.from_numpy(np.sin(2 * np.pi * times / 12)).reshape(-1, 1, 1, 1)  # lips shut and open twice a second
    wanted, reach = range(0, 200), smoothing_reach(1.5)
    some = smooth_latents(slow[::2], range(-10, 210, 2), wanted, 1.5).flatten()
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / 1.5) ** 2)
    every = np.convolve(slow.flatten(), kernel / kernel.sum(), "same")[10:-10]
    assert np.abs(some.numpy() - every).max() < 0.02
    assert smoothing_stride(1.5) == 2 and smoothing_stride(1.0) == 1


def test_output_types_agree(pipeline):
    array = run(pipeline).frames
    pictures, tensor, latents = (run(pipeline, output_type=kind).frames for kind in ("pil", "pt", "latent"))
    assert np.array_equal(np.stack([np.asarray(p) for p in pictures]), np.rint(255 * array).astype(np.uint8))
    assert torch.equal(tensor, torch.from_numpy(array).permute(0, 3, 1, 2))
    assert latents.shape == (15, 32, 16, 16)


def test_callback_sees_every_step_and_may_replace_the_latents(pipeline):
    seen = []

    def record(pipe, step, timestep, tensors):
        seen.append(step)
        return {"latents": torch.zeros_like(tensors["latents"])}

    run(pipeline, callback_on_step_end=record, chunk_size=8)
    assert seen == [0, 1, 0, 1]


def test_save_pretrained_round_trip_gives_identical_frames(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = TempoSyncPipeline.from_pretrained(tmp_path)
    loaded.register_modules(face_aligner=pipeline.face_aligner)  # random weights find no face
    assert np.array_equal(run(pipeline).frames, run(ready(loaded)).frames)
    assert not list(tmp_path.rglob("*.bin"))


def test_generate_to_file_writes_the_whole_recording(pipeline, tmp_path):
    from scipy.io import wavfile

    samples, rate = spoken(1.0)
    wavfile.write(tmp_path / "speech.wav", rate, samples)

    Image.fromarray(picture()).save(tmp_path / "portrait.png")
    figures = pipeline.generate_to_file(tmp_path / "portrait.png", tmp_path / "speech.wav", tmp_path / "out.mp4", 1, progress=False)
    frames, fps = read_video(tmp_path / "out.mp4")
    assert figures["frames"] == len(frames) == 25 and fps == 25


def test_saved_videos_have_the_sound_that_was_given_as_samples(pipeline, tmp_path):
    run(pipeline, output_type="pil").save(tmp_path / "out.mp4")
    sound, given = load_audio(tmp_path / "out.mp4"), spoken()
    assert sound.source_rate == given[1] and sound.duration == pytest.approx(0.6, abs=0.05)
    assert np.abs(sound.samples).max() == pytest.approx(np.abs(given[0]).max(), rel=0.2)


@pytest.mark.parametrize(("changes", "message"), [
    ({"output_type": "gif"}, "output_type"), ({"num_inference_steps": 0}, "num_inference_steps"), ({"chunk_size": 0}, "chunk_size"),
    ({"num_inference_steps": 9}, "9 denoising steps: a student takes 1 to 8"),
    ({"mouth_amplitude": -1.0}, "mouth_amplitude")])
def test_bad_arguments_are_named(pipeline, changes, message):
    with pytest.raises(ValueError, match=message):
        run(pipeline, **changes)


def test_the_teachers_sampler_takes_more_steps(pipeline):
    teacher = TempoSyncPipeline(**pipeline.components | {"scheduler": TempoSyncScheduler(prediction="ode")})
    teacher.set_progress_bar_config(disable=True)
    assert len(run(teacher, num_inference_steps=9, audio=spoken(0.1), output_type="latent").frames)


def test_a_picture_without_a_face_says_so(pipeline):
    with pytest.raises(FaceError, match="No face"):
        run(pipeline, image=np.full((100, 100, 3), 128, np.uint8))
    with pytest.raises(FaceError, match="face_index 3"):
        run(pipeline, face_index=3)


@pytest.fixture
def latents_file(pipeline, tmp_path):
    output = run(pipeline, output_type="latent", chunk_size=4)
    output.save_latents(tmp_path / "latents.safetensors")
    return tmp_path / "latents.safetensors"


def test_latents_decoded_from_a_file_give_the_same_frames_bit_for_bit(pipeline, latents_file):
    at_once = np.concatenate(list(pipeline.stream(picture(200, 300), spoken(), 2, torch.Generator().manual_seed(7), chunk_size=4)))
    video = LatentVideo.load(latents_file)
    assert np.array_equal(np.concatenate(list(pipeline.decode_latents(video))), at_once)
    assert video.fps == 25 and video.visemes.shape == (15, 15) and np.array_equal(video.photo, picture(200, 300))
    assert not list(latents_file.parent.glob(".*"))


def test_latents_may_be_read_by_whom_a_plain_file_may(latents_file, tmp_path):
    (tmp_path / "plain").touch()
    assert latents_file.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_black_and_white_photo_speaks_in_black_and_white(pipeline, tmp_path, mode):
    colours = run(pipeline).frames
    assert np.ptp(colours, axis=-1).max() > 0.1
    grey = Image.fromarray(picture(200, 300)).convert("L").convert(mode)
    output = run(pipeline, image=grey)
    assert np.ptp(output.frames, axis=-1).max() == 0 and not np.array_equal(output.frames[0], output.frames[-1])
    at_once = np.concatenate(list(pipeline.stream(grey, spoken(), 2, torch.Generator().manual_seed(7), chunk_size=4)))
    latents = run(pipeline, image=grey, output_type="latent", chunk_size=4).latent_video
    assert np.array_equal(np.concatenate(list(pipeline.decode_latents(latents))), at_once)


def test_latents_become_the_video_with_its_sound_later(pipeline, latents_file, tmp_path):
    figures = pipeline.decode_to_file(latents_file, tmp_path / "out.mp4")
    assert figures["frames"] == len(read_video(tmp_path / "out.mp4")[0]) == 15 and repr(figures["fps"]) == "25"
    assert load_audio(tmp_path / "out.mp4").duration == pytest.approx(0.6, abs=0.05)


def test_files_that_are_no_latents_are_refused_in_one_line(pipeline, latents_file, tmp_path):
    whole, foreign = latents_file.read_bytes(), tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    cases = [(whole[:-1000], "damaged"), (whole[:50], "damaged"), (b"", "damaged"), (b"text", "damaged"),
             (foreign.read_bytes(), "holds no latents"),
             (whole.replace(b'"version":"1"', b'"version":"7"'), "version 7"), (whole.replace(b"\x89PNG", b"\x89PNX"), "photo"),
             (whole.replace(b'"fps":"25"', b'"fps":"no"'), "damaged")]
    for data, message in cases:
        foreign.write_bytes(data)
        with pytest.raises(InvalidInputError, match=message):
            LatentVideo.load(foreign)
    video = LatentVideo.load(latents_file)
    with pytest.raises(InvalidInputError, match="another autoencoder"):
        next(pipeline.decode_latents(replace(video, autoencoder="0")))
    with pytest.raises(InvalidInputError, match="another autoencoder"):
        next(pipeline.decode_latents(replace(video, latents=video.latents[:, :-1])))
    with pytest.raises(ValueError, match="no latents"):
        run(pipeline).save_latents(tmp_path / "none.safetensors")


def test_bfloat16_changes_frames_by_no_more_than_rounding(pipeline):
    frames = {}
    for low_precision in (True, False):
        pipeline.use_bfloat16 = low_precision
        frames[low_precision] = run(pipeline).frames
    pipeline.use_bfloat16 = has_fast_bfloat16()
    assert np.sqrt(np.square(frames[True] - frames[False]).mean()) < 0.01


def test_float16_runs_on_a_cpu_too(pipeline):
    half = TempoSyncPipeline(**copy.deepcopy(pipeline.components)).to(torch.float16)
    half.use_bfloat16 = True
    half.set_progress_bar_config(disable=True)
    assert np.sqrt(np.square(run(half).frames - run(pipeline).frames).mean()) < 0.01


def test_commands_generate_latents_and_decode_them(pipeline, tmp_path, monkeypatch, make_audio, capsys):
    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", lambda name, **_: pipeline)
    Image.fromarray(picture(96, 80)).save(tmp_path / "portrait.png")
    latents, video = tmp_path / "a.safetensors", tmp_path / "out.mp4"

    def temposync(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        return end.value.code or 0

    assert temposync("generate", "--image", tmp_path / "portrait.png", "--audio", make_audio("a.wav", seconds=0.6), "--output", latents,
                     "--steps", 1, "--device", "cpu") == 0
    assert temposync("decode", "--latents", latents, "--output", video, "--device", "cpu") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(video) and len(read_video(video)[0]) == 15
    latents.write_bytes(latents.read_bytes()[:-10])
    assert temposync("decode", "--latents", latents, "--output", video) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
