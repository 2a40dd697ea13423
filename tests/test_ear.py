"""The stage `ear`: batched crops say what the single ones say, and a step of it teaches."""

import math

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from transformers import WhisperConfig, WhisperModel

from temposync_pipeline.data import batched_augmentation as batched
from temposync_pipeline.data.batched_augmentation import Chance
from temposync_pipeline.data.sound_reel import Cuts, SoundReel, Track
from temposync_pipeline.data.viseme_corpus import Utterance, save_utterances
from temposync_pipeline.data.viseme_crops import band_filters, band_levels
from temposync_pipeline.data.viseme_labels import SAMPLE_RATE, Segment, coverage
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.models.viseme_classifier import VisemeClassifier, normalize_loudness
from temposync_pipeline.training import ear

CPU = torch.device("cpu")


def spoken(seconds: float, seed: int = 0) -> np.ndarray:
    """Something like speech: a buzz that comes and goes, int16."""
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    buzz = sum(np.sin(2 * np.pi * 130 * k * time) / k for k in range(1, 20)) * np.clip(np.sin(2 * np.pi * (3 + seed) * time), 0, 1)
    return (buzz * 6000 + np.random.default_rng(seed).normal(0, 20, len(time))).astype(np.int16)


def some_utterances() -> list[Utterance]:
    segments = [Segment(0.0, 0.3, 0), Segment(0.3, 0.42, 1), Segment(0.42, 0.9, 10), Segment(0.9, 1.2, 8)]
    return [Utterance(f"{source}_{seed}", source, spoken(1.5 + seed, seed), segments)
            for seed, source in enumerate(("read", "grid", "read"))]


def test_a_reel_cuts_what_lies_in_it():
    items = some_utterances()
    reel = SoundReel([item.samples for item in items], [1.0] * 3, CPU, [item.segments for item in items],
                     {"motion": Track([np.linspace(0, 1, int(len(item.samples) / SAMPLE_RATE * 25))[:, None] for item in items],
                                      25, 0.5, CPU)})
    cuts = Cuts(torch.tensor([0, 2]), torch.tensor([[0.25], [-0.1]]), torch.tensor([[1.0], [1.25]]))
    sounds = reel.sounds(cuts, 8000)
    assert np.allclose(sounds[0], items[0].samples[4000:12000] / 32768, atol=1e-6)
    assert not sounds[1, : int(0.1 / 1.25 * SAMPLE_RATE) - 1].any()  # before the recording begins
    labels = reel.labels(cuts, 20, 0.02, 0.02)
    assert np.abs(labels[0].numpy() - coverage(items[0].segments, 20, 0.02, 0.27)).max() < 0.2  # looked at every 2.5 ms, known every 5
    motion, known = reel.track("motion", cuts, 20, 0.0, 0.02)
    assert known[0].all() and not known[1, 0]
    assert motion[0, 0, 0].item() == pytest.approx(((0.25 + 0.01) * 25 - 0.5) / 36, abs=1e-3)


def test_batched_crops_sound_like_single_ones():
    sound = torch.from_numpy(spoken(3.0)).float()[None] / 32768
    single = normalize_loudness(sound[0].numpy())
    levelled = batched.normalize(sound)[0].numpy()
    assert np.corrcoef(single, levelled)[0, 1] > 0.97
    assert abs(math.log(single.std() / levelled.std())) < 0.5
    middles = 0.022 + (np.arange(100) + 0.5) * 0.02
    heard = batched.band_levels(sound, torch.from_numpy(band_filters()), torch.from_numpy(np.round(middles * SAMPLE_RATE)).long(), 400)
    assert np.abs(heard[0].numpy() - band_levels(sound[0].numpy(), 100, 0.022, 0.02)).max() < 1e-3


def test_augmented_crops_keep_their_time_and_stay_finite():
    sounds = torch.from_numpy(np.stack([spoken(2.0, seed) for seed in range(40)])).float() / 32768
    changed = batched.augment(sounds, sounds.flip(0), batched.music_reels(CPU), Chance(CPU))
    assert changed.shape == sounds.shape and changed.isfinite().all()

    def envelope(values: torch.Tensor) -> torch.Tensor:
        levels = values.reshape(len(values), -1, 320).square().mean(-1).log()
        return levels - levels.mean(1, keepdim=True)

    alike = torch.nn.functional.cosine_similarity(envelope(sounds), envelope(changed + 1e-4), dim=1)
    assert alike.median() > 0.6


def test_layers_that_are_added_change_nothing_at_first(tmp_path):
    small = VisemeClassifier(ear.VisemeClassifierConfig(num_hidden_layers=1)).eval()
    small.save_pretrained(tmp_path)
    grown = ear.grown_classifier(ear.Config(init=str(tmp_path), layers=3)).eval()
    sound = torch.from_numpy(spoken(1.0)).float()[None] / 3000
    with torch.no_grad():
        assert torch.allclose(small(sound).logits, grown(sound).logits, atol=1e-4)


def test_speech_without_labels_gets_those_that_are_read_in_its_features(tmp_path, capsys):
    wavfile.write(tmp_path / "memo.wav", SAMPLE_RATE, spoken(1.4))
    wavfile.write(tmp_path / "click.wav", SAMPLE_RATE, spoken(0.3))
    wavfile.write(tmp_path / "blip.wav", SAMPLE_RATE, spoken(0.05))
    (tmp_path / "empty.flac").write_bytes(b"")
    (item,) = ear.unlabelled_utterances(tmp_path)
    assert "blip.wav" in (told := capsys.readouterr().err) and "empty.flac" in told
    assert item.samples.dtype == np.int16 and np.abs(item.samples - spoken(1.4).astype(int)).max() <= 1
    # Its only feature says which viseme it is: closed lips for half a second, then the tenth.
    reading = ear.VisemeReading(1).eval()
    with torch.no_grad():
        for weights in reading.parameters():
            weights.zero_()
        reading[1].weight[0], reading[4].weight[1, 0], reading[4].bias[10] = 1, 10, 5
    features = np.where(np.arange(70) < 25, 1, -1).astype(np.float16)[:, None]
    (labelled,) = ear.labelled_by(reading, [item], [features])
    labels = coverage(labelled.segments, 70, 0.02, -0.01)
    assert (labels[:25].argmax(1) == 1).all() and (labels[25:].argmax(1) == 10).all() and labels.max(1).min() == pytest.approx(1, abs=1e-6)


def test_what_has_no_recordings_or_no_weight_is_said_before_anything_is_heard(tmp_path):
    (tmp_path / "song.mp3").write_bytes(b"no sound")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InvalidInputError, match=f"{folder.name}: no recordings"):
            ear.train(ear.Config(unlabelled=[str(folder)], tensorboard=False, output=str(tmp_path / "run")))
    with pytest.raises(InvalidInputError, match="source_weights does not say"):
        ear.train(ear.Config(unlabelled=[str(tmp_path)], source_weights={"read": 1.0}, tensorboard=False, output=str(tmp_path / "run")))


def test_an_ear_is_taught_by_whisper_labels_and_lips(tmp_path):
    items = some_utterances()
    for part in ("train", "validation"):
        save_utterances(tmp_path / f"{part}.npz", items)
    (tmp_path / "lips").mkdir()
    (tmp_path / "unlabelled" / "deep").mkdir(parents=True)
    ear.save_performances(tmp_path / "lips" / "talkers.npz", [items[1].samples], [np.random.default_rng(0).normal(size=(62, 6))])
    wavfile.write(tmp_path / "unlabelled" / "deep" / "memo.wav", SAMPLE_RATE, spoken(1.4, 5))
    wavfile.write(tmp_path / "unlabelled" / "click.wav", SAMPLE_RATE, spoken(0.3, 5))
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
             "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 10, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
             "decoder_start_token_id": 1}
    WhisperModel(WhisperConfig(**sizes)).save_pretrained(tmp_path / "whisper")
    figures = ear.train(ear.Config(
        output=str(tmp_path / "run"), data=str(tmp_path), tensorboard=False,
        mixed_precision="no", whisper=str(tmp_path / "whisper"), lips=str(tmp_path / "lips"), batch_size=8,
        unlabelled=[str(tmp_path / "unlabelled")],
        crop_seconds=1.0, layers=1, max_steps=2, whisper_layer=1, reading_steps=3, noise_share=0.2,
        source_weights={"read": 0.4, "grid": 0.3, "unlabelled": 0.3}))
    assert {"grid_accuracy", "read_pbm_recall"} <= set(figures)
    saved = VisemeClassifier.from_pretrained(tmp_path / "run" / "viseme_classifier")
    assert saved.config.hidden_dropout == 0
    with open(tmp_path / "run" / "log.csv") as log:
        assert {"visemes", "teacher", "features", "talkers"} <= set(log.readline().strip().split(","))
