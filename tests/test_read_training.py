"""The stages of READ learn, on faces made up of moving blobs."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.models.autoencoder_temposync import AutoencoderTempoSync
from temposync_pipeline.models.transformer_talking_head import TalkingHeadTransformer
from temposync_pipeline.training import read, speech, temporal
from temposync_pipeline.training.face_cache import FaceCache
from temposync_pipeline.training.whole_faces import first_transformer, load_coders

COMMON = {"max_steps": 12, "batch_size": 4, "warmup_steps": 1, "mixed_precision": "no", "threads": 1, "tensorboard": False,
          "ema_decay": 0.5, "learning_rate": 3e-3}


def temporal_config(runs, **changes):
    return temporal.Config(data=str(runs), vae=str(runs), latent_channels=8, frame_channels=8, width=8, pixel_pairs=1,
                           **COMMON | {"frames": 9} | changes)


def speech_config(runs, **changes):
    return speech.Config(data=str(runs), temporal_vae=str(runs / "temporal"), channels=8, code_channels=4, frames=17,
                         **{"tokens": 2} | COMMON | changes)


def read_config(runs, **changes):
    return read.Config(data=str(runs), temporal_vae=str(runs / "temporal"), clip_frames=3, channels=16, num_layers=1, num_heads=2,
                       validation_steps=2, **{"speech_autoencoder": str(runs / "speech")} | COMMON | changes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with FACES, in which a sound's loudness says where a blob is, and a picture autoencoder."""
    folder = tmp_path_factory.mktemp("read")
    rng = np.random.default_rng(0)
    for split, lengths in (("train", (57, 33, 33)), ("val", (41, 33))):
        heard = rng.standard_normal((sum(lengths), 5)).astype(np.float32)
        latents = np.zeros((sum(lengths), 4, 16, 16), np.float32)
        lips = np.repeat(heard[:, :1], 6, 1)
        latents[:, :, 9:13, 5:11] = np.cumsum(heard[:, 0], 0)[:, None, None, None].clip(-3, 3)
        starts = np.cumsum([0, *lengths[:-1]])
        sequences = [(start, length, start) for start, length in zip(starts, lengths)]
        save_file({
            "latents": torch.from_numpy((24 * latents).round().astype(np.int8)), "sequences": torch.tensor(np.array(sequences)),
            "references": torch.zeros(len(lengths), 4, 16, 16, dtype=torch.int8),
            "heard": torch.from_numpy(heard).half(), "lips": torch.from_numpy(lips).half()}, folder / f"faces_{split}.safetensors")
    torch.manual_seed(0)
    AutoencoderTempoSync(latent_channels=4, encoder_channels=(4, 4, 4, 4), decoder_channels=(8, 8, 4, 4),
                         decoder_blocks=(1, 1, 1, 1)).save_pretrained(folder / "vae")
    temporal.train(temporal_config(folder, output=str(folder / "temporal"), frames=17, max_steps=60, learning_rate=1e-2))
    speech.train(speech_config(folder, output=str(folder / "speech"), max_steps=30))
    speech.train(speech_config(folder, output=str(folder / "speech8"), max_steps=1, tokens=8))
    return folder


def losses(folder):
    with open(folder / "log.csv") as file:
        return list(csv.DictReader(file))


def test_windows_are_those_of_the_file(runs):
    cache = FaceCache(runs, "train")
    clips = cache.window(torch.tensor([1]), torch.tensor([3]), 9)
    assert clips.frames.shape == (1, 4, 9, 16, 16) and cache.features == 5
    assert torch.equal(clips.frames[0, :, 2], cache.tensors["latents"][57 + 5].float() / 24)
    assert torch.equal(clips.heard[0], cache.tensors["heard"][60:69].float())
    assert torch.equal(clips.lips[0], cache.tensors["lips"][60:69].float())
    del cache.tensors["lips"]  # as in files written before there were any
    assert cache.window(torch.tensor([1]), torch.tensor([3]), 9).lips.isnan().all()
    assert len(cache.draw(6, 41).frames) == 6  # only the first sequence is long enough
    with pytest.raises(InvalidInputError, match="no sequence of 65 frames"):
        cache.draw(1, 65)
    with pytest.raises(InvalidInputError, match="face_latents writes it"):
        FaceCache(runs / "nowhere", "train")


def test_temporal_autoencoder_learns_what_moves_and_measures_its_latents(runs):
    from temposync_pipeline.models.autoencoder_temporal import AutoencoderTemporal

    assert float(losses(runs / "temporal")[-1]["ev"]) > 0.1
    model = AutoencoderTemporal.from_pretrained(runs / "temporal" / "temporal_vae")
    clips = FaceCache(runs, "train").draw(8, 17)
    with torch.inference_mode():
        deviation = model.encode(clips.frames, clips.reference).latent.std((0, 2, 3, 4))
    assert len(model.config.latents_std) == 8 and 0.3 < deviation.max() < 3


def test_speech_autoencoder_learns(runs):
    assert float(losses(runs / "speech")[-1]["explained"]) > 0.05


def test_transformer_learns(runs):
    figures = read.train(read_config(runs, output=str(runs / "read"), max_steps=60))
    assert set(figures) == {"velocity", "ev", "std"} and figures["velocity"] < 2


def test_a_transformer_goes_on_as_one_that_is_told_the_lips(runs, tmp_path):
    torch.manual_seed(0)
    config = read_config(runs, lips=True, drop_lips=0.5, lip_noise=0.0, speech_autoencoder=str(runs / "speech8"))
    temporal_vae, speech_autoencoder = load_coders(config, torch.device("cpu"))
    untold = first_transformer(config, temporal_vae, speech_autoencoder, reference_channels=4)
    torch.nn.init.normal_(untold.leave.weight)
    untold.save_pretrained(tmp_path / "untold" / "transformer")
    saved = tmp_path / "untold" / "transformer" / "config.json"
    config_before = json.loads(saved.read_text())
    del config_before["lip_channels"]  # as of one that was saved before there were any
    saved.write_text(json.dumps(config_before))
    told = first_transformer(replace(config, init=str(tmp_path / "untold")), temporal_vae, speech_autoencoder, 6, reference_channels=4)
    source = read.ClipSource(FaceCache(runs, "train"), temporal_vae, speech_autoencoder, config)
    latents, reference, codes = source.code(source.cache.held_out(3, 17), drop_lips=0.5)
    assert codes.shape[1:] == (3, 8, 4 + 6)
    unknown = codes[..., 4:].isnan().flatten(1)
    assert (unknown.all(1) == unknown.any(1)).all() and unknown.any() and not unknown.all()
    level = torch.full((3, 3), 0.5)
    with torch.inference_mode():
        assert torch.equal(told(latents, level, reference, codes).sample, untold(latents, level, reference, codes[..., :4]).sample)
    read.train(replace(config, init=str(tmp_path / "untold"), output=str(tmp_path / "read"), max_steps=2))
    trained = TalkingHeadTransformer.from_pretrained(tmp_path / "read" / "transformer")
    assert trained.config.lip_channels == 6 and trained.lips[2].weight.abs().max() > 0


@pytest.mark.parametrize("stage, config, weights", [
    (temporal, temporal_config, "temporal_vae"), (speech, speech_config, "speech_autoencoder"), (read, read_config, "transformer")])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(runs, tmp_path, stage, config, weights):
    # The schedule of a run depends on where it ends: a constant rate for this comparison.
    for output, steps, resume in (("whole", 8, False), ("parts", 4, False), ("parts", 8, True)):
        stage.train(config(runs, output=str(tmp_path / output), max_steps=steps, resume=resume, batch_size=2,
                           final_learning_rate=COMMON["learning_rate"]))
    whole, parts = (load_file(tmp_path / name / weights / "diffusion_pytorch_model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_motion_frames_are_less_noisy_than_the_rest():
    levels = read.draw_levels(4000, 5, read.Config(), torch.device("cpu"))
    assert ((levels >= 0) & (levels <= 1)).all() and (levels[:, 1:] == levels[:, 1:2]).all()
    ahead = levels[:, 0] < levels[:, 1]
    assert abs(ahead.float().mean() - 0.6) < 0.03 and (levels[:, 0] <= levels[:, 1]).all()
    assert abs((levels[:, 0] == 0).float().mean() - 0.6 * 0.3) < 0.03
