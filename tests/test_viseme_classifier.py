"""VisemeClassifier: time, silence, chunks, storage, training, and Hub CTC checkpoints, on tiny networks."""

import json

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from temposync_pipeline.data.viseme_corpus import Utterance, save_utterances
from temposync_pipeline.data.viseme_labels import Segment
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.metrics.visemes import (
    CONDITIONS,
    VisemeScore,
    closure_offsets,
    figures_table,
    heard_in,
    plot_confusion,
    score_visemes,
)
from temposync_pipeline.models.viseme_classifier import (
    VisemeClassifier,
    VisemeClassifierConfig,
    VisemeOutput,
    hold_emissions,
    mel_filter_bank,
)
from temposync_pipeline.models.visemes import VISEME_INDEX, VISEMES
from temposync_pipeline.training.visemes import Config, soft_cross_entropy, train

RATE = 16_000
SIL, PP, AA, IH = (VISEME_INDEX[name] for name in ("sil", "PP", "aa", "ih"))
TINY = dict(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(16, 16, 16),
    num_conv_pos_embeddings=3, num_conv_pos_embedding_groups=2,
)


@pytest.fixture(scope="module")
def classifier() -> VisemeClassifier:
    torch.manual_seed(0)
    return VisemeClassifier(VisemeClassifierConfig(**TINY)).eval()


def speechlike(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


@pytest.mark.parametrize("num_samples", [0, 1, 399, 400, 5000])
@pytest.mark.parametrize("fps", [25, 30, 12.5])
def test_every_frame_gets_a_distribution_however_short_the_audio(classifier, num_samples, fps):
    probabilities = classifier.predict(speechlike(1)[:num_samples], 7, fps)
    assert probabilities.shape == (7, 15) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


def test_digital_silence_and_the_time_after_the_end_are_sil(classifier):
    samples = np.concatenate([speechlike(1), np.zeros(RATE, np.float32), speechlike(1)])
    probabilities = classifier.predict(samples, 100, voice_only=False)
    assert (probabilities[26:49, SIL] > 0.999).all()
    assert (probabilities[76:, SIL] > 0.999).all()
    assert (probabilities[2:24, SIL] < 0.999).any()
    assert (classifier.predict(np.full(RATE, 0.2, np.float32), 25)[:, SIL] > 0.999).all()


def test_bad_samples_are_refused(classifier):
    with pytest.raises(ValueError, match="finite"):
        classifier.predict(np.full(RATE, np.nan, np.float32), 25)
    with pytest.raises(ValueError, match="one-dimensional"):
        classifier.predict(np.zeros((2, RATE), np.float32), 25)


def test_loudness_does_not_matter(classifier):
    samples = speechlike(2)
    loud, quiet = (classifier.predict(gain * samples, 50, voice_only=False) for gain in (1, 0.1))
    np.testing.assert_allclose(loud, quiet, atol=1e-3)


def test_receptive_field_matches_the_network(classifier):
    with torch.no_grad():
        extract = classifier.wav2vec2.feature_extractor
        assert extract(torch.zeros(1, classifier.receptive_field)).shape[-1] == 1
        assert extract(torch.zeros(1, classifier.receptive_field + classifier.hop)).shape[-1] == 2
    assert VisemeClassifier(VisemeClassifierConfig(**TINY | dict(
        conv_dim=(8,) * 7, conv_kernel=(10, 3, 3, 3, 3, 2, 2), conv_stride=(5, 2, 2, 2, 2, 2, 2)))).receptive_field == 400


class Loudspeaker(VisemeClassifier):
    """Says aa where the receptive field of a frame is centred on a loud sample, sil elsewhere: a model with known answers."""

    def forward(self, input_values, attention_mask=None):
        centres = torch.arange((input_values.shape[1] - self.receptive_field) // self.hop + 1) * self.hop + self.receptive_field // 2
        loud = input_values[:, centres].abs() > 0.5
        logits = torch.full((*loud.shape, 15), -20.0)
        logits[..., AA] = torch.where(loud, 20.0, -20.0)
        logits[..., SIL] = -logits[..., AA]
        return VisemeOutput(logits=logits, hidden=logits)


@pytest.mark.parametrize("fps", [25, 30, 50])
def test_probabilities_fall_on_the_video_frames_of_the_sound(fps):
    """One loud second amid quiet; the frames that cover it, and no others, say aa; also across the seams of long audio."""
    samples = 0.01 * np.ones(50 * RATE, np.float32) * np.sign(np.sin(np.arange(50 * RATE)))
    for start in (3, 20, 39.5):
        samples[int(start * RATE) : int((start + 1) * RATE)] *= 50
    predicted = Loudspeaker(VisemeClassifierConfig(**TINY)).predict(samples, 50 * fps, fps, voice_only=False)[:, AA]
    centres = (np.arange(50 * fps) + 0.5) / fps
    expected = np.any([(centres > start) & (centres < start + 1) for start in (3, 20, 39.5)], 0)
    edge = np.any([np.abs(centres - start - side) < 0.02 + 0.5 / fps for start in (3, 20, 39.5) for side in (0, 1)], 0)
    np.testing.assert_allclose(predicted[~edge], expected[~edge], atol=1e-4)
    assert predicted.mean() == pytest.approx(expected.mean(), abs=0.01)


def test_long_audio_equals_its_parts(classifier):
    """Windows overlap by more than the context that matters: far from the ends, a long file gives what an excerpt gives."""
    samples = speechlike(45)
    whole = classifier.predict(samples, 45 * 25, voice_only=False)
    np.testing.assert_allclose(whole.sum(1), 1, atol=1e-5)
    middle = classifier.predict(samples[15 * RATE : 25 * RATE], 250, voice_only=False)
    assert np.abs(whole[15 * 25 + 40 : 25 * 25 - 40] - middle[40:-40]).max() < 0.05


def test_pieces_of_what_is_heard_come_every_few_seconds_and_are_all_of_it(classifier):
    samples = speechlike(20)
    pieces = list(classifier.listen(samples, 500))
    heard = classifier.hear(samples, 500)
    assert [len(piece.visemes) for piece in pieces] == [49, 200, 200, 51] and len(heard.hidden) == len(heard.loudness) == 500
    for track in ("visemes", "hidden", "loudness"):
        assert np.array_equal(np.concatenate([getattr(piece, track) for piece in pieces]), getattr(heard, track))
    assert np.array_equal(pieces[0].visemes, next(classifier.listen(np.concatenate([samples, samples]), 1000)).visemes)


def test_save_and_load(classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    loaded = VisemeClassifier.from_pretrained(tmp_path)
    assert isinstance(loaded.config, VisemeClassifierConfig) and loaded.config.num_visemes == 15
    assert (tmp_path / "model.safetensors").exists()
    samples = speechlike(1)
    np.testing.assert_array_equal(loaded.predict(samples, 25), classifier.predict(samples, 25))


def test_filter_bank_hears_mel_spaced_bands():
    bank = mel_filter_bank(64, 256)
    peaks = torch.fft.rfft(bank, 4096).abs().argmax(-1) * RATE / 4096
    assert bank.shape == (64, 256)
    assert (peaks[2::2] > peaks[:-2:2] - 40).all() and peaks[-1] > 6000 and peaks[0] < 200
    model = VisemeClassifier(VisemeClassifierConfig(**TINY))
    model.reset_filter_bank()
    torch.testing.assert_close(model.wav2vec2.feature_extractor.conv_layers[0].conv.weight[:, 0], mel_filter_bank(16, 256))


# --- CTC -------------------------------------------------------------------------------------------------------------

VOCABULARY = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "p": 5, "aɪ": 6, "tʃ": 7, "h": 8, "ə": 9}


def ctc_checkpoint(folder, vocabulary) -> None:
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8,) * 7, feat_extract_norm="layer", do_stable_layer_norm=True, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")


def test_ctc_checkpoint_answers_in_visemes(tmp_path):
    ctc_checkpoint(tmp_path / "hub", VOCABULARY)
    model = VisemeClassifier.from_ctc_checkpoint(str(tmp_path / "hub"))
    samples = speechlike(1)
    recogniser = Wav2Vec2ForCTC.from_pretrained(tmp_path / "hub").eval()
    with torch.no_grad():
        inputs = torch.from_numpy(samples)[None]
        torch.testing.assert_close(model(inputs).logits, recogniser(inputs).logits)
    probabilities = model.predict(samples, 25)
    assert probabilities.shape == (25, 15)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    possible = {"sil", "PP", "aa", "ih", "CH", "E"}
    assert (probabilities[:, [index for index, name in enumerate(VISEMES) if name not in possible]] == 0).all()
    model.save_pretrained(tmp_path / "own")
    np.testing.assert_array_equal(VisemeClassifier.from_pretrained(tmp_path / "own").predict(samples, 25), probabilities)


@pytest.mark.parametrize(("vocabulary", "message"), [
    ({"a": 9}, "^vocab.json: 'a' is 9, expected a number below 1$"), ({"a": -1}, "'a' is -1, expected"),
    ({"a": "b"}, "'a' is 'b', expected"),
    ({"a": [0]}, r"'a' is \[0\], expected"), ([], "^vocab.json: not a JSON object$"), ({"a" * 10**6: 0}, "above the limit of 1000000$"),
])
def test_a_vocabulary_that_is_none_is_told(tmp_path, vocabulary, message):
    ctc_checkpoint(tmp_path, {"p": 0})
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(InvalidInputError, match=message):
        VisemeClassifier.from_ctc_checkpoint(str(tmp_path))


def test_ctc_vocabulary_without_phonemes_is_refused(tmp_path):
    ctc_checkpoint(tmp_path, {"<pad>": 0, "1": 1, "2": 2})
    with pytest.raises(ValueError, match="IPA"):
        VisemeClassifier.from_ctc_checkpoint(str(tmp_path))


def test_emissions_are_held_over_blanks_and_pauses_become_silence():
    emissions = torch.zeros(100, 15)
    emissions[30, PP] = emissions[34, AA] = 0.98
    held = hold_emissions(emissions, 0.02)
    torch.testing.assert_close(held.sum(-1), torch.ones(100))
    assert held[:15].argmax(-1).eq(SIL).all() and held[60:].argmax(-1).eq(SIL).all()
    assert held[28:32].argmax(-1).eq(PP).all() and held[33:40].argmax(-1).eq(AA).all()


# --- training and scores ---------------------------------------------------------------------------------------------


def test_loss_is_the_entropy_at_best_and_weights_classes():
    labels = torch.zeros(1, 2, 15)
    labels[0, 0, AA], labels[0, 1, AA], labels[0, 1, PP] = 1, 0.5, 0.5
    logits = labels.clamp(min=1e-12).log()
    assert soft_cross_entropy(logits, labels, torch.ones(15)).item() == pytest.approx(np.log(2) / 2, abs=1e-5)
    weights = torch.ones(15)
    weights[PP] = 3
    assert soft_cross_entropy(logits, labels, weights).item() == pytest.approx(np.log(2), abs=1e-5)


def test_score_counts_frames_and_draws_them(tmp_path):
    confusion = np.zeros((15, 15), int)
    confusion[SIL, SIL], confusion[SIL, AA], confusion[AA, AA], confusion[AA, IH] = 9, 1, 6, 4
    score = VisemeScore(confusion, audio_seconds=2.0, compute_seconds=0.1)
    assert (score.accuracy, score.speech_accuracy, score.recall[SIL], score.times_real_time) == pytest.approx((0.75, 0.6, 0.9, 20))
    plot_confusion(score, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 5000


def test_closures_heard_late_are_told_by_how_much_and_those_not_heard_are_left_out():
    segments = [Segment(0.5, 0.6, PP), Segment(1.0, 1.1, AA), Segment(1.5, 1.6, PP)]
    times = (np.arange(200) + 0.5) / 100
    closed = np.where(np.abs(times - 0.57) < 0.04, 0.9, 0.0)  # the first is heard 20 ms late, the second not at all
    assert closure_offsets(closed, segments) == [pytest.approx(0.02, abs=0.006)]


@pytest.mark.parametrize("condition", [*CONDITIONS, "child"])
def test_conditions_change_the_sound_and_leave_what_is_said_in_time(condition):
    samples = np.zeros(2 * RATE)
    samples[RATE // 2 : RATE] = 0.3 * np.sign(np.sin(2 * np.pi * 150 * np.arange(RATE // 2) / RATE))
    item = Utterance("buzz", "read", (samples * 32767).astype(np.int16), [Segment(0.5, 1.0, AA)])
    (heard,) = heard_in(condition, [item])
    assert np.array_equal(heard.samples, item.samples) == (condition == "clean")
    start, end, viseme = heard.segments[0]
    buzz, rest = heard.samples[int(start * RATE) : int(end * RATE)], heard.samples[int((end + 0.3) * RATE) :]
    assert viseme == AA and np.std(buzz.astype(float)) > 2 * np.std(rest.astype(float))


def test_figures_are_printed_in_their_units():
    table = figures_table({"clean": {"accuracy": 0.5, "pbm_offset_ms": 3.2}, "hi": {"accuracy": 0.25, "of_english": 0.5}})
    assert table.splitlines()[2:] == ["| clean | 50.0% | 3 |  |", "| hi | 25.0% |  | 0.50 |"]


def tone_corpus(folder) -> None:
    """Two vowels that any ear can tell apart: a low tone is ou, a high one ih."""
    items = []
    for index in range(6):
        time = np.arange(RATE) / RATE
        low, high = np.sin(2 * np.pi * (300 + 10 * index) * time), np.sin(2 * np.pi * (2500 + 50 * index) * time)
        samples = np.concatenate([np.zeros(RATE // 2), 0.3 * low, 0.3 * high])
        segments = [Segment(0.5, 1.5, VISEME_INDEX["ou"]), Segment(1.5, 2.5, IH)]
        items.append(Utterance(f"tone{index}", "grid", (samples * 32767).astype(np.int16), segments))
    folder.mkdir()
    save_utterances(folder / "train.npz", items[:4])
    save_utterances(folder / "validation.npz", items[4:])


def test_training_learns_two_vowels_stores_and_resumes(tmp_path):
    tone_corpus(tmp_path / "corpus")
    settings = dict(
        corpus=str(tmp_path / "corpus"), output=str(tmp_path / "run"), source_weights={"grid": 0.9, "noise": 0.1}, crop_seconds=1.0,
        batch_size=4, max_minutes=10.0, validate_every_minutes=60.0, warmup_steps=3,
        learning_rate=2e-3, ema_decay=0.9, mixed_precision="no", threads=1,
    )
    figures = train(Config(**settings, max_steps=100))
    assert set(figures) == {f"grid_{name}" for name in ("accuracy", "speech_accuracy", "silence_recall", "pbm_recall", "pbm_offset_ms")}
    assert figures["grid_accuracy"] > 0.6  # always guessing one class gives 0.4; other seeds reach 0.99
    model = VisemeClassifier.from_pretrained(tmp_path / "run" / "viseme_classifier")
    resumed = train(Config(**settings, max_steps=101, resume=True))
    assert resumed.keys() == figures.keys()
    assert len((tmp_path / "run" / "log.csv").read_text().splitlines()) == 3
    assert score_visemes(model, []).accuracy == 0
