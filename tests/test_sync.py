import numpy as np
import pytest
import torch
from torch.nn import functional as F

from temposync_pipeline.data.sync_corpus import SyncClip, load_corpus, save_corpus
from temposync_pipeline.data.sync_sampler import SyncSampler, alter_latents, alter_mel, cut_speech
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.media.loudness import normalize_loudness
from temposync_pipeline.metrics.sync import sync_curve, sync_figures, window_accuracy
from temposync_pipeline.models.sync_expert import SyncExpert, frame_distances, log_mel, offset_distances
from temposync_pipeline.training import sync


def tiny_expert(**changes) -> SyncExpert:
    torch.manual_seed(5)
    return SyncExpert(hidden_channels=16, num_blocks=1, embedding_channels=8, **changes).eval()


def talking_clip(seed: int, num_frames: int = 60) -> SyncClip:
    """A mouth that opens as loud as its noise is: latents follow the envelope in one direction, behind a face of their own."""
    generator = np.random.default_rng(seed)
    envelope = np.convolve(generator.random(num_frames + 4) ** 3, np.ones(3) / 3)[3:num_frames + 3]
    samples = np.repeat(envelope, 640) * generator.standard_normal(640 * num_frames)
    face = torch.from_numpy(generator.standard_normal((32, 10, 12)))
    latents = face + torch.from_numpy(envelope)[:, None, None, None] * torch.linspace(-4, 4, 32)[:, None, None]
    return SyncClip(latents.half(), (samples / samples.std()).astype(np.float32))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sync")
    save_corpus([talking_clip(seed) for seed in range(12)], folder / "talkers_train.safetensors")
    save_corpus([talking_clip(seed) for seed in range(100, 104)], folder / "talkers_val.safetensors")
    return folder


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """A tiny expert after a few seconds of its stage, and the stage's figures."""
    config = sync.Config(data=str(corpus), output=str(tmp_path_factory.mktemp("run")), max_steps=80, batch_size=10,
                         learning_rate=1e-2, warmup_steps=5, ema_decay=0.9, hidden_channels=16, num_blocks=1, embedding_channels=8,
                         dropout=0.0)
    figures = sync.train(config)
    return SyncExpert.from_pretrained(f"{config.output}/sync_expert").eval(), figures


def test_embeddings_are_unit_vectors_one_a_frame():
    expert = tiny_expert()
    mouth, speech = expert(torch.randn(2, 30, 32, 10, 12), log_mel(torch.randn(2, 640 * 30)))
    assert mouth.shape == speech.shape == (2, 30, 8)
    assert torch.allclose(mouth.norm(dim=-1), torch.ones(2, 30), atol=1e-4)
    distances = frame_distances(mouth, speech)
    assert torch.allclose(distances, (mouth - speech).norm(dim=-1), atol=1e-3)


def test_appearance_does_not_matter_and_gradients_reach_the_latents():
    expert, latents = tiny_expert(), torch.randn(1, 25, 32, 10, 12, requires_grad=True)
    other_face = latents + torch.randn(1, 1, 32, 10, 12)
    assert torch.allclose(expert.embed_mouth(latents), expert.embed_mouth(other_face), atol=1e-4)
    frame_distances(*expert(latents, log_mel(torch.randn(1, 640 * 25)))).mean().backward()
    assert latents.grad.abs().sum() > 0


def test_half_precision_agrees():
    expert = tiny_expert()
    latents, mel = torch.randn(1, 25, 32, 10, 12), log_mel(torch.randn(1, 640 * 25))
    exact = torch.stack(expert(latents, mel))
    half = torch.stack(expert.half()(latents.half(), mel))
    assert half.isfinite().all() and (exact - half).abs().max() < 0.05


def test_log_mel_puts_a_tone_into_its_band_and_its_frame():
    time = torch.arange(640 * 10) / 16_000
    samples = torch.sin(2 * torch.pi * 1000 * time) * ((time >= 0.2) & (time < 0.24))  # video frame 5
    mel = log_mel(samples[None])[0]
    assert mel.shape == (40, 80)
    loudest = mel.exp().sum(1).reshape(10, 4).sum(1)
    assert loudest.argmax() == 5 and loudest[5] > 0.8 * loudest.sum()
    band = mel[21].argmax() / 81
    expected = np.log1p(1000 / 700) - np.log1p(60 / 700), np.log1p(7600 / 700) - np.log1p(60 / 700)
    assert abs(band - expected[0] / expected[1]) < 0.03


def test_offsets_are_positive_where_lips_come_late():
    speech = F.normalize(torch.randn(1, 40 + 12, 8), dim=-1)
    late = speech[:, 6 - 2:6 - 2 + 40]  # mouth frame t shows what was said at t - 2
    distances = offset_distances(late, speech, 6).mean(-1)[0]
    assert distances.shape == (13,) and distances.argmin() - 6 == 2 and distances.min() < 0.01


def test_corpus_keeps_clips_and_stores_a_shared_recording_once(tmp_path):
    clip = talking_clip(0)
    loud = SyncClip(clip.latents, 0.1 * clip.samples)
    save_corpus([loud, SyncClip(clip.latents[10:30], loud.samples, 10)], tmp_path / "corpus.safetensors")
    first, second = load_corpus(tmp_path / "corpus.safetensors")
    assert torch.equal(second.latents, first.latents[10:30]) and second.start == 10
    assert second.samples is first.samples and np.abs(first.samples - normalize_loudness(clip.samples)).max() < 0.02


def test_cut_speech_pads_what_lies_outside():
    samples = np.arange(1, 1281, dtype=np.float32)
    assert cut_speech(samples, -1, 4).tolist() == [0] * 640 + samples.tolist() + [0] * 640
    assert cut_speech(samples, 5, 2).tolist() == [0] * 1280 and cut_speech(samples, -3, 2).tolist() == [0] * 1280


def test_sampler_cuts_mouth_and_speech_at_the_same_time():
    clip = talking_clip(0)
    clip.latents[:] = torch.arange(60)[:, None, None, None]
    clip.samples[:] = np.repeat(np.exp(np.arange(60) / 10), 640)  # each frame louder than the one before
    torch.manual_seed(0)
    batch = SyncSampler({"a": [clip]}, {"a": 1.0}, 30, 5).draw(8)
    assert batch.latents.shape == (8, 30, 32, 10, 12) and batch.mel.shape == (8, 160, 80) and batch.valid.shape == (8, 40)
    for latents, valid in zip(batch.latents, batch.valid):
        frame = latents.flatten(1).mean(1)
        first = float((frame / (frame[-1] - frame[0])).mean()) * 29 - 14.5  # the gain cancels
        outside = (np.arange(40) + round(first) - 5 < 0) | (np.arange(40) + round(first) - 5 >= 60)
        assert abs(int((~valid).sum()) - int(outside.sum())) <= 1


def test_alterations_keep_what_happens_when():
    torch.manual_seed(0)
    latents = torch.randn(3, 8, 32, 10, 12)
    altered = alter_latents(latents, gain=0.0, noise=0.0, hidden=0.9)
    kept = altered != 0
    assert torch.equal(altered[kept], latents[kept]) and 0.1 < kept.float().mean() < 1
    quiet, loud = torch.zeros(3, 20, 80), torch.ones(3, 20, 80)
    mel = alter_mel(torch.cat([quiet, loud], 1))
    # One response for the whole stretch: the step in the middle stays, in the bands that are not lost.
    step = (mel[:, 20:] - mel[:, :20])[:, 0]
    assert torch.allclose(mel[:, :20], mel[:, :1].expand(-1, 20, -1)) and step.mean() > 0.7 and step.max() < 1.01


def test_stage_learns_to_hear_what_it_sees(trained):
    _, figures = trained
    assert figures["windows"] == figures["speech_windows"] == 4 * 26
    assert figures["all_both"] > 0.85 and figures["offset_within_one"] == 1 and figures["proxy_lse_c"] > 0.1


def test_a_delayed_video_has_the_offset_of_its_delay(trained):
    expert, _ = trained
    clip = talking_clip(200, 80)
    figures = sync_figures(expert, clip.latents, clip.samples)
    late = torch.cat([clip.latents[:1].repeat(3, 1, 1, 1), clip.latents[:-3]])
    assert sync_figures(expert, late, clip.samples)["offset"] == figures["offset"] + 3
    stranger = sync_figures(expert, clip.latents, talking_clip(201, 80).samples)
    assert stranger["proxy_lse_c"] < figures["proxy_lse_c"] and stranger["proxy_lse_d"] > figures["proxy_lse_d"]


def test_too_short_clips_are_named():
    clip = talking_clip(0, 30)
    assert sync_curve(tiny_expert(), clip.latents, clip.samples).shape == (31,)
    with pytest.raises(InvalidInputError, match="25 frames"):
        sync_curve(tiny_expert(), clip.latents[:20], clip.samples)
    with pytest.raises(InvalidInputError, match="25 frames"):
        sync_curve(tiny_expert(), clip.latents, clip.samples[:640 * 20])
    with pytest.raises(InvalidInputError, match="35 frames"):
        window_accuracy(tiny_expert(), [clip])
    with pytest.raises(InvalidInputError, match="a: no clip of at least 31 frames"):
        SyncSampler({"a": [clip]}, {"a": 1.0}, 31, 5)


def test_an_untrained_expert_is_near_chance():
    accuracy = window_accuracy(tiny_expert(), [talking_clip(seed) for seed in range(4)])
    assert accuracy["windows"] == 104 and 0 < accuracy["all_pairs"] < 0.95
    assert accuracy["all_pairs"] == pytest.approx((accuracy["all_later"] + accuracy["all_earlier"]) / 2)


def test_stage_resumes(corpus, tmp_path):
    settings = {"data": str(corpus), "output": str(tmp_path), "batch_size": 4, "hidden_channels": 16, "num_blocks": 1, "warmup_steps": 1}
    sync.train(sync.Config(max_steps=2, **settings))
    figures = sync.train(sync.Config(max_steps=3, resume=True, **settings))
    assert 0 <= figures["all_both"] <= 1
