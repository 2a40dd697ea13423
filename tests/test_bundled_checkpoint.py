"""The weights that ship: they load without a network, make lips follow speech, and nothing in their folder surprises."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from temposync_pipeline import TempoSyncPipeline, __version__
from temposync_pipeline.checkpoints import bundled_path
from temposync_pipeline.face.landmarks import lip_opening
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.models.denoiser_temposync import TempoSyncDenoiser
from temposync_pipeline.models.visemes import VISEMES

from .tiny_components import heard

pytestmark = pytest.mark.makes_videos

MEDIA = Path(__file__).parent.parent / "examples" / "media"


@pytest.fixture(scope="module")
def pipeline() -> TempoSyncPipeline:
    pipeline = TempoSyncPipeline.from_pretrained("temposync-tiny")
    assert (pipeline.model_name, pipeline.model_revision) == ("temposync-tiny", __version__)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_model_index_names_are_frozen():
    """Published checkpoints hold these module paths: renaming a file would break every one of them."""
    index = json.loads((bundled_path("temposync-tiny") / "model_index.json").read_text())
    models = "temposync_pipeline.models."
    assert {name: value for name, value in index.items() if isinstance(value, list) and name != "_class_name"} == {
        "vae": [models + "autoencoder_temposync", "AutoencoderTempoSync"],
        "denoiser": [models + "denoiser_temposync", "TempoSyncDenoiser"],
        "identity_encoder": [models + "identity_encoder", "IdentityEncoder"],
        "viseme_classifier": [models + "viseme_classifier", "VisemeClassifier"],
        "face_aligner": [models + "face_aligner", "FaceAligner"],
        "lip_motion": [models + "lip_motion", "LipMotion"],
        "scheduler": ["temposync_pipeline.schedulers.scheduling_temposync", "TempoSyncScheduler"],
    }
    assert index["_class_name"] == ["pipeline", "TempoSyncPipeline"] and index["fps"] == 25


def test_folder_is_small_safe_and_free_of_local_paths():
    files = [path for path in bundled_path("temposync-tiny").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 100e6
    assert {path.suffix for path in files} == {".json", ".safetensors", ".py"}
    for path in files:
        assert path.suffix != ".py" or re.fullmatch(r"from temposync_pipeline\S* import \w+  # noqa: F401\n", path.read_text())
        assert path.suffix != ".json" or "_name_or_path" not in json.loads(path.read_text())


def test_teacher_is_at_least_three_times_the_student(pipeline):
    teacher = TempoSyncDenoiser.from_pretrained(bundled_path("temposync-tiny"), subfolder="teacher")
    assert sum(p.numel() for p in teacher.parameters()) >= 3 * sum(p.numel() for p in pipeline.denoiser.parameters())


def test_every_model_computes_in_single_precision_with_finite_weights(pipeline):
    for name in ("vae", "denoiser", "identity_encoder", "viseme_classifier", "lip_motion", "face_aligner"):
        for parameter in getattr(pipeline, name).parameters():
            assert parameter.dtype == torch.float32 and parameter.isfinite().all(), name


@pytest.mark.parametrize("portrait", ["portrait_man.jpg", "portrait_woman.jpg"])
def test_lips_open_for_vowels_and_close_in_silence(pipeline, portrait):
    """Those of a smile that shows teeth, too."""
    samples = load_audio(MEDIA / "speech_hello.wav").samples[:40_000]
    speech = np.concatenate([samples, np.zeros(12_800, np.float32)])
    output = pipeline(MEDIA / portrait, (speech, 16_000), num_inference_steps=4, output_type="np",
                      generator=torch.Generator().manual_seed(0))
    opening = lip_opening(pipeline.face_aligner.track(list(np.rint(255 * output.frames).astype(np.uint8))))
    vowels = output.visemes[:, [VISEMES.index(name) for name in ("aa", "E", "oh")]].sum(1) > 0.7
    silence = np.arange(len(opening)) >= len(opening) - 14
    assert vowels.any()
    assert np.median(opening[vowels]) > 0.04 + np.median(opening[silence])


def spoken_openings(pipeline, monkeypatch, portrait: str, visemes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lip openings [T] and frames uint8 [T, H, W, 3] of a portrait that follows the viseme probabilities [T, 15]."""
    monkeypatch.setattr(pipeline.viseme_classifier, "listen", lambda *_: iter([heard(visemes)]))
    output = pipeline(MEDIA / portrait, (np.zeros(640 * len(visemes), np.float32), 16_000), num_inference_steps=2, output_type="np",
                      generator=torch.Generator().manual_seed(0))
    frames = np.rint(255 * output.frames).astype(np.uint8)
    return lip_opening(pipeline.face_aligner.track(list(frames))), frames


def viseme_stream(*names: str) -> np.ndarray:
    """Six frames of each viseme, [6·n, 15]."""
    return np.repeat(np.eye(len(VISEMES), dtype=np.float32)[[VISEMES.index(name) for name in names]], 6, 0)


def test_swapping_the_viseme_streams_swaps_the_mouths(pipeline, monkeypatch):
    streams = viseme_stream("aa", "sil"), viseme_stream("sil", "aa")
    man, woman = ([spoken_openings(pipeline, monkeypatch, portrait, stream)[0] for stream in streams]
                  for portrait in ("portrait_man.jpg", "portrait_woman.jpg"))
    for mine, other in ((man, woman), (woman, man)):
        for stream in (0, 1):
            assert np.corrcoef(mine[stream], other[stream])[0, 1] > 0.5
            assert np.corrcoef(mine[stream], other[1 - stream])[0, 1] < 0


def test_zero_visemes_give_a_closed_calm_mouth(pipeline, monkeypatch):
    for portrait in ("portrait_man.jpg", "portrait_woman.jpg"):
        silent, frames = spoken_openings(pipeline, monkeypatch, portrait, np.zeros((3, 15), np.float32))
        speaking, _ = spoken_openings(pipeline, monkeypatch, portrait, viseme_stream("aa")[:3])
        assert np.ptp(frames.astype(int), 0).max() <= 2
        assert silent.max() < 0.09 and silent.max() < 0.6 * speaking.min()


def test_streams_and_decoded_latents_are_the_frames_of_a_call_to_the_bit(pipeline):
    """A stream prepares the portrait beside the listening, with half of torch's threads: with another number networks round otherwise."""
    threads, said = torch.get_num_threads(), load_audio(MEDIA / "speech_hello.wav").samples[None, :16_000]

    def made(make, **options):
        return make(MEDIA / "portrait_man.jpg", (said, 16_000), 2, generator=torch.Generator().manual_seed(0), **options)

    torch.set_num_threads(2)
    try:
        called = np.rint(255 * made(pipeline, output_type="np").frames)
        assert np.array_equal(np.concatenate(list(made(pipeline.stream))), called)
        decoded = pipeline.decode_latents(made(pipeline, output_type="latent").latent_video)
        assert np.array_equal(np.concatenate(list(decoded)), called)
    finally:
        torch.set_num_threads(threads)
