"""What users of diffusers take for granted of a pipeline."""

import io
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from scipy.io import wavfile

from temposync_pipeline import InvalidInputError, TempoSyncPipeline
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.media.video import read_video

from .tiny_components import picture, spoken, tiny_denoiser, tiny_pipeline

pytestmark = pytest.mark.makes_videos


@pytest.fixture(scope="module")
def pipeline() -> TempoSyncPipeline:
    return tiny_pipeline()


def run(pipeline: TempoSyncPipeline, **changes):
    arguments = {"image": picture(120, 150), "audio": spoken(0.4), "num_inference_steps": 2, "output_type": "np",
                 "generator": torch.Generator().manual_seed(7)} | changes
    return pipeline(**arguments)


def mirrored() -> np.ndarray:
    return np.ascontiguousarray(picture(120, 150)[:, ::-1])


# --- one pipeline, many callers ---------------------------------------------------------------------------------------


def test_two_threads_get_what_each_would_get_alone(pipeline):
    calls = [{"num_inference_steps": steps, "image": image, "chunk_size": 2, "audio": spoken(1.0)}
             for steps, image in ((1, picture(120, 150)), (4, mirrored()), (3, picture(90, 90)), (2, mirrored()))]
    alone = [run(pipeline, **call).frames for call in calls]
    together = Barrier(len(calls))

    def work(call):
        together.wait()
        return run(pipeline, **call).frames

    with ThreadPoolExecutor(len(calls)) as threads:
        for expected, frames in zip(alone, threads.map(work, calls)):
            assert np.array_equal(expected, frames)


def test_streams_of_one_pipeline_may_take_turns(pipeline):
    def stream(steps, image):
        return pipeline.stream(image, spoken(0.4), steps, torch.Generator().manual_seed(7), chunk_size=3)

    alone = [np.concatenate(list(stream(*call))) for call in ((1, picture(120, 150)), (3, mirrored()))]
    turns = [np.concatenate(frames) for frames in zip(*zip(stream(1, picture(120, 150)), stream(3, mirrored())))]
    assert all(np.array_equal(*pair) for pair in zip(alone, turns))


def test_a_hidden_progress_bar_concerns_its_own_call(pipeline, tmp_path, make_audio, capsys):
    shown = TempoSyncPipeline(**pipeline.components)
    for method, name in ((shown.generate_to_file, "a.mp4"), (shown.latents_to_file, "a.safetensors")):
        method(picture(96, 96), make_audio("a.wav", 0.2), tmp_path / name, 1, progress=False)
    assert not capsys.readouterr().err
    run(shown, num_inference_steps=1)
    assert "10/10" in capsys.readouterr().err


# --- callbacks --------------------------------------------------------------------------------------------------------


def test_callbacks_get_the_tensors_they_ask_for_and_see_the_number_of_steps(pipeline):
    seen = []

    def record(pipe, step, timestep, tensors):
        seen.append((step, pipe.num_timesteps, sorted(tensors)))

    for names in (["latents"], [], list(pipeline._callback_tensor_inputs)):
        run(pipeline, callback_on_step_end=record, callback_on_step_end_tensor_inputs=names, chunk_size=64)
        assert [(step, steps) for step, steps, _ in seen] == [(0, 2), (1, 2)] and seen[0][2] == sorted(names)
        seen.clear()
    assert pipeline.num_timesteps == 2
    with pytest.raises(ValueError, match="prompt_embeds"):
        run(pipeline, callback_on_step_end=record, callback_on_step_end_tensor_inputs=["prompt_embeds"])


def test_a_callback_may_replace_conditions(pipeline):
    def silence(pipe, step, timestep, tensors):
        return {"visemes": torch.zeros_like(tensors["visemes"])}

    changed = run(pipeline, callback_on_step_end=silence, callback_on_step_end_tensor_inputs=["visemes"]).frames
    assert changed.shape == run(pipeline).frames.shape and not np.array_equal(changed, run(pipeline).frames)


def test_what_a_callback_cannot_return_is_told(pipeline):
    def returning(answer):
        return lambda pipe, step, timestep, tensors: answer(tensors["latents"])

    for answer, said in ((lambda latents: {"latents": latents[:1]}, r"latents: \[1, 32, 10, 12\], expected a tensor \[\d+, 32, 10, 12\]"),
                         (lambda latents: {"latents": latents.numpy()}, "latents: a ndarray"),
                         (lambda latents: latents, "a Tensor, expected a dictionary"), (lambda latents: [latents], "a list, expected")):
        with pytest.raises(InvalidInputError, match=f"^callback_on_step_end returned {said}"):
            run(pipeline, callback_on_step_end=returning(answer))
    precise = run(pipeline, callback_on_step_end=returning(lambda latents: {"latents": latents.double()}))
    assert np.array_equal(precise.frames, run(pipeline).frames)


@pytest.mark.parametrize("smoothing", [0.0, 1.0, 1.5])
def test_an_interrupted_call_returns_the_frames_so_far(pipeline, smoothing, tmp_path):
    interrupting, steps = TempoSyncPipeline(**pipeline.components, latent_smoothing=smoothing), []

    def stop(pipe, step, timestep, tensors):
        steps.append(step)
        pipe._interrupt = len(steps) == 5  # the second step of the second chunk
        assert pipe.interrupt == (len(steps) == 5)

    output = run(interrupting, callback_on_step_end=stop, chunk_size=4, num_inference_steps=3)
    assert steps == [0, 1, 2, 0, 1] and len(output.frames) == len(output.visemes) == 8 and not interrupting.interrupt
    whole = run(interrupting, chunk_size=4, num_inference_steps=3).frames
    assert len(whole) == 10 and np.array_equal(output.frames[:4], whole[:4])
    output.save(tmp_path / "part.mp4")
    assert len(read_video(tmp_path / "part.mp4")[0]) == 8


def test_an_interruption_stops_its_own_call_and_one_from_outside_stops_all(pipeline):
    arrived = Barrier(3)

    def call(interrupts):
        def meet(pipe, step, timestep, tensors):
            if step == 0:
                pipe._interrupt = interrupts
                arrived.wait()
                arrived.wait()

        return run(pipeline, callback_on_step_end=meet, chunk_size=64).frames

    with ThreadPoolExecutor(2) as threads:
        for outside in (False, True):
            calls = [threads.submit(call, interrupts) for interrupts in (True, False)]
            arrived.wait()
            if outside:
                pipeline._interrupt = True
            arrived.wait()
            stopped, other = (call.result() for call in calls)
            assert not np.array_equal(stopped, run(pipeline).frames)
            assert np.array_equal(other, stopped if outside else run(pipeline).frames)


def test_latents_are_the_noise_to_start_from(pipeline):
    noise = torch.randn((2, 1, 32, 10, 12), generator=torch.Generator().manual_seed(7))
    assert np.array_equal(run(pipeline, latents=noise[0]).frames, run(pipeline).frames)
    assert not np.array_equal(run(pipeline, latents=-noise[0]).frames, run(pipeline).frames)
    assert np.array_equal(run(pipeline, latents=noise[0], num_inference_steps=1, generator=None).frames,
                          run(pipeline, num_inference_steps=1).frames)
    with pytest.raises(InvalidInputError, match=r"latents: \[1, 4, 64, 64\], expected \[1, 32, 10, 12\]"):
        run(pipeline, latents=torch.zeros(1, 4, 64, 64))


def test_tuples_instead_of_outputs(pipeline):
    output = run(pipeline)
    frames, visemes = run(pipeline, return_dict=False)
    assert np.array_equal(frames, output.frames) and np.array_equal(visemes, output.visemes)


# --- batches and kinds of input ---------------------------------------------------------------------------------------


def test_lists_make_a_batch(pipeline, tmp_path):
    seeds = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    output = run(pipeline, image=[picture(120, 150), mirrored()], audio=[spoken(0.4), spoken(0.2)], generator=seeds)
    alone = [run(pipeline), run(pipeline, image=mirrored(), audio=spoken(0.2), generator=torch.Generator().manual_seed(8))]
    for index, single in enumerate(alone):
        assert np.array_equal(output.frames[index], single.frames) and np.array_equal(output.visemes[index], single.visemes)
    output.save([tmp_path / "a.mp4", tmp_path / "b.mp4"])
    assert [len(read_video(tmp_path / name)[0]) for name in ("a.mp4", "b.mp4")] == [10, 5]
    with pytest.raises(InvalidInputError, match="2 videos need a list of 2 paths"):
        output.save(tmp_path / "c.mp4")
    with pytest.raises(InvalidInputError, match="d.mp4: two videos cannot be the same file"):
        output.save([tmp_path / "d.mp4", tmp_path / "folder" / ".." / "d.mp4"])
    assert not (tmp_path / "d.mp4").exists()
    with pytest.raises(InvalidInputError, match="1 generators for 2 videos"):
        run(pipeline, image=[picture(120, 150)] * 2, generator=seeds[:1])


def test_one_portrait_speaks_many_recordings_and_many_portraits_one(pipeline):
    noise = torch.randn(1, 32, 10, 12)
    recordings = run(pipeline, audio=[spoken(0.2), spoken(0.4)], num_inference_steps=1, latents=noise).frames
    assert [len(frames) for frames in recordings] == [5, 10]
    assert np.array_equal(recordings[1], run(pipeline, num_inference_steps=1, latents=noise).frames)
    portraits = run(pipeline, image=np.stack([picture(120, 150), mirrored()]), latents=noise, num_inference_steps=1, output_type="pil")
    assert len(portraits.frames) == 2 and len(portraits.frames[0]) == 10 and isinstance(portraits.frames[1][0], Image.Image)
    assert len(run(pipeline, image=[picture(120, 150)]).frames) == 1
    for image, audio in (([], spoken()), ([picture()] * 2, [spoken()] * 3)):
        with pytest.raises(InvalidInputError, match=f"{len(image)} portraits and .* recordings"):
            run(pipeline, image=image, audio=audio)


def test_portraits_of_every_kind_give_the_same_frames(pipeline, tmp_path):
    array = picture(120, 150)
    Image.fromarray(array).save(tmp_path / "portrait.png")
    data = (tmp_path / "portrait.png").read_bytes()
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    expected = run(pipeline).frames
    for image in (tmp_path / "portrait.png", data, io.BytesIO(data), open(tmp_path / "portrait.png", "rb"), tensor, tensor / 255,
                  (tensor / 255).double(), {"bytes": data, "path": None}, {"path": str(tmp_path / "portrait.png")}):
        assert np.array_equal(run(pipeline, image=image).frames, expected)
    seeds = [torch.Generator().manual_seed(7) for _ in range(2)]
    assert np.array_equal(run(pipeline, image=torch.stack([tensor / 255] * 2), generator=seeds).frames[1], expected)


def test_whole_numbers_of_a_list_are_heard_as_those_of_an_array():
    samples = (8000 * spoken(0.4)[0]).astype(np.int16)
    np.testing.assert_allclose(load_audio((np.array(samples.tolist()), 16_000)).samples, load_audio((samples, 16_000)).samples, atol=1e-6)


def test_recordings_of_every_kind_give_the_same_frames(pipeline, tmp_path):
    samples, rate = spoken(0.4)
    wavfile.write(tmp_path / "speech.wav", rate, samples)
    data = (tmp_path / "speech.wav").read_bytes()
    expected = run(pipeline).frames
    for audio in (tmp_path / "speech.wav", data, io.BytesIO(data), (rate, samples), (samples, float(rate)), (samples.tolist(), rate),
                  (torch.from_numpy(samples), rate), {"array": samples, "sampling_rate": rate, "path": "x"}, {"bytes": data, "path": None},
                  {"audio": samples[None], "sampling_rate": rate}, {"waveform": torch.from_numpy(samples)[None, None], "sample_rate": rate},
                  SimpleNamespace(get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(samples)[None], sample_rate=rate))):
        assert np.array_equal(run(pipeline, audio=audio).frames, expected)
    output = run(pipeline, audio=io.BytesIO(data))
    output.save(tmp_path / "out.mp4")
    assert load_audio(tmp_path / "out.mp4").duration == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize(("changes", "message"), [
    ({"image": torch.rand(150, 120, 3)}, r"picture tensor: shape \[150, 120, 3\], expected \[3, H, W\]"),
    ({"image": torch.rand(3, 150, 120) * 2 - 1}, "outside the limits of 0 to 1"),
    ({"image": 3}, "a portrait cannot be of type int"), ({"image": None}, "a portrait cannot be of type NoneType"),
    ({"image": io.BytesIO(b"text")}, "picture: not a readable"), ({"image": {"url": "x"}}, "a portrait cannot be of type dict"),
    ({"audio": np.zeros(16_000, np.float32)}, "samples without their sampling rate"), ({"audio": 3}, "a recording cannot be of type int"),
    ({"audio": (np.zeros(16_000), np.zeros(16_000))}, "a recording cannot be of type tuple"), ({"audio": b"text"}, "recording: not"),
    ({"audio": {"array": np.zeros(9)}}, "a recording cannot be of type dict"),
    ({"generator": 7}, "generator: a int, expected a torch.Generator"), ({"latents": "noise"}, "latents: a str, expected a tensor"),
    ({"face_index": "0"}, "face_index must be a whole number, got '0'"), ({"face_index": 0.5}, "face_index must be a whole number"),
    ({"mouth_amplitude": "1"}, r"mouth_amplitude must lie in \[0, 3\]"), ({"blink_rate": 9}, r"blink_rate must lie in \[0, 2\]"),
    ({"num_inference_steps": 2.0}, "num_inference_steps must be a whole number"), ({"chunk_size": 0}, "chunk_size must be a whole number"),
    ({"output_type": "mp4"}, "output_type must be one of")])
def test_other_kinds_are_refused_in_one_sentence(pipeline, changes, message):
    with pytest.raises(InvalidInputError, match=message) as error:
        run(pipeline, **changes)
    assert "\n" not in str(error.value)


def test_a_name_ending_in_gif_gets_a_gif_and_unknown_endings_an_error(pipeline, tmp_path, caplog):
    output = run(pipeline, output_type="pil")
    output.save(tmp_path / "talk.gif")
    with Image.open(tmp_path / "talk.gif") as gif:
        assert gif.format == "GIF" and gif.size == (150, 120)
        length = 0
        for index in range(gif.n_frames):
            gif.seek(index)
            length += gif.info["duration"]
        assert length == 400
        gif.seek(0)
        assert np.abs(np.asarray(gif.convert("RGB"), np.float32) - np.asarray(output.frames[0], np.float32)).mean() < 8
    assert "talk.gif: a GIF has no sound" in caplog.text and len(list(tmp_path.iterdir())) == 1
    for name in ("talk.webm", "talk.png"):
        with pytest.raises(InvalidInputError, match=f"{name}: videos are written as .mp4 or .gif"):
            output.save(tmp_path / name)
    for write in (pipeline.generate_to_file, pipeline.stream_to_file):
        with pytest.raises(InvalidInputError, match="talk.gif: videos are written as .mp4, not as .gif"):
            list(write(picture(120, 150), spoken(0.4), tmp_path / "talk.gif"))


# --- the same components, another pipeline ----------------------------------------------------------------------------


def test_a_pipeline_made_of_the_components_keeps_the_settings(pipeline):
    first = TempoSyncPipeline(
        **pipeline.components, fps=30, mouth_amplitude=2.0, motion_floor=0.2, latent_smoothing=1.0, viseme_smoothing=2.0)
    again = TempoSyncPipeline(**first.components)
    settings = {name: first.config[name] for name in first.SETTINGS}
    assert {name: again.config[name] for name in first.SETTINGS} == settings and settings["fps"] == 30
    assert np.array_equal(run(first).frames, run(again).frames)
    assert TempoSyncPipeline(**first.components, motion_floor=0.0).config.motion_floor == 0.0
    assert TempoSyncPipeline(**first.components).config.motion_floor == 0.2
    assert TempoSyncPipeline.from_pipe(first).config.latent_smoothing == 1.0
    first.register_to_config(mouth_amplitude=0.5)
    assert TempoSyncPipeline(**first.components).config.mouth_amplitude == 0.5
    assert TempoSyncPipeline(**pipeline.components).config.fps == 25


# --- components -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "other", "said"), [
    ("denoiser", None, "missing"), ("scheduler", None, "missing"),
    ("vae", tiny_denoiser(), "a TempoSyncDenoiser, expected a AutoencoderTempoSync"),
    ("scheduler", DDIMScheduler(), "a DDIMScheduler, expected a TempoSyncScheduler"),
    ("lip_motion", torch.nn.Linear(1, 1), "a Linear, expected"),
])
def test_a_component_that_is_missing_or_of_another_kind_is_told(tmp_path, part, other, said):
    pipeline = tiny_pipeline()
    setattr(pipeline, part, other)
    for call in (lambda: run(pipeline), lambda: next(pipeline.stream(picture(), spoken())),
                 lambda: pipeline.generate_to_file(picture(), spoken(), tmp_path / "a.mp4")):
        with pytest.raises(InvalidInputError, match=f"^{part}: {said}"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["vae", "denoiser", "identity_encoder"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_component_may_be_as_precise_as_it_likes(part, dtype):
    pipeline = tiny_pipeline()
    pipeline.use_bfloat16, whole = False, run(pipeline).frames
    getattr(pipeline, part).to(dtype)
    assert np.abs(run(pipeline).frames - whole).max() < (0.1 if dtype == torch.bfloat16 else 2 / 255)
    video = run(pipeline, output_type="latent").latent_video
    assert np.array_equal(np.concatenate(list(pipeline.decode_latents(video))) / np.float32(255), run(pipeline).frames)


def test_autocast_around_a_call_is_no_obstacle():
    pipeline = tiny_pipeline()
    whole = run(pipeline).frames
    with torch.autocast("cpu", torch.bfloat16):
        assert np.abs(run(pipeline).frames - whole).max() < 0.1
