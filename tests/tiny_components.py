"""Real models with tiny configurations, for tests: built in milliseconds, random weights."""

import os
from pathlib import Path

import numpy as np
import soxr
import torch

from temposync_pipeline.export.runtimes import use_runtime
from temposync_pipeline.face.crop import RIGID, TEMPLATE
from temposync_pipeline.face.landmarks import GROUPS, LEFT_IRIS, NUM_LANDMARKS, RIGHT_IRIS
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.models.autoencoder_temporal import AutoencoderTemporal
from temposync_pipeline.models.autoencoder_temposync import AutoencoderTempoSync
from temposync_pipeline.models.denoiser_temposync import TempoSyncDenoiser
from temposync_pipeline.models.face_aligner import Face, FaceAligner
from temposync_pipeline.models.identity_encoder import IdentityEncoder
from temposync_pipeline.models.lip_motion import LipMotion
from temposync_pipeline.models.speech_autoencoder import SpeechAutoencoder
from temposync_pipeline.models.transformer_talking_head import TalkingHeadTransformer
from temposync_pipeline.models.viseme_classifier import Hearing, VisemeClassifier, VisemeClassifierConfig
from temposync_pipeline.pipelines.pipeline_asymtalker import AsymTalkerPipeline
from temposync_pipeline.pipelines.pipeline_read import ReadPipeline
from temposync_pipeline.pipelines.pipeline_temposync import TempoSyncPipeline
from temposync_pipeline.pipelines.talking_head import TalkingHeadPipeline
from temposync_pipeline.schedulers.scheduling_async_flow_match import AsyncFlowMatchScheduler
from temposync_pipeline.schedulers.scheduling_chunked_flow_match import ChunkedFlowMatchScheduler
from temposync_pipeline.schedulers.scheduling_temposync import TempoSyncScheduler

MEDIA = Path(__file__).parent.parent / "examples" / "media"


def tiny_vae() -> AutoencoderTempoSync:
    torch.manual_seed(0)
    return AutoencoderTempoSync(encoder_channels=(8, 8, 8, 8), encoder_blocks=(1, 0, 0, 1), decoder_channels=(8, 8, 8, 8),
                                decoder_blocks=(1, 0, 0, 1)).eval()


def tiny_motion_vae() -> AutoencoderTempoSync:
    """`tiny_vae` that also knows where pixels come from: random weights, large enough that something moves."""
    vae = tiny_vae()
    settings = {name: value for name, value in vae.config.items() if not name.startswith("_")}
    moving = AutoencoderTempoSync(**settings | {"motion_channels": (8, 8, 8), "motion_blocks": (1, 0, 0)}).eval()
    moving.load_state_dict(vae.state_dict(), strict=False)
    for head in (moving.motion_decoder.flow, moving.motion_decoder.hidden):
        torch.nn.init.normal_(head[0].weight, std=2.0)
    return moving


def tiny_inner_vae() -> AutoencoderTempoSync:
    """`tiny_motion_vae` that also paints the inside of the mouth; what starts at zero is random here."""
    vae = tiny_motion_vae()
    settings = {name: value for name, value in vae.config.items() if not name.startswith("_")}
    painting = AutoencoderTempoSync(**settings | {
        "inner_channels": (8, 8, 8, 8), "inner_blocks": (1, 0, 0, 0), "inner_placed": (4, 6)}).eval()
    painting.load_state_dict(vae.state_dict(), strict=False)
    for places in (painting.inner_decoder.place_middle, painting.inner_decoder.place_fine):
        torch.nn.init.normal_(places)
    return painting


def tiny_denoiser(**changes) -> TempoSyncDenoiser:
    """Output layers start at zero in a fresh model; here they are random, so that every input has an effect."""
    torch.manual_seed(1)
    settings = {"block_out_channels": (32, 32), "layers_per_block": (1, 1), "mid_layers": 1, "embedding_channels": 32} | changes
    denoiser = TempoSyncDenoiser(**settings).eval()
    for parameter in denoiser.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return denoiser


def tiny_viseme_classifier() -> VisemeClassifier:
    torch.manual_seed(2)
    return VisemeClassifier(VisemeClassifierConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=(16, 16, 16), conv_stride=(10, 8, 4), conv_kernel=(20, 16, 8), num_conv_pos_embeddings=7,
        num_conv_pos_embedding_groups=2)).eval()


def template_face(image: np.ndarray, max_faces: int | None = None, threshold: float = 0.5) -> list[Face]:
    """What `detect` answers in tests (random weights find nothing): the template in the square at the picture's upper left."""
    if image.max() == image.min():
        return []
    landmarks = np.full((NUM_LANDMARKS, 2), 128, np.float32)
    landmarks[RIGID] = TEMPLATE
    landmarks[[RIGHT_IRIS, LEFT_IRIS]] = (94, 100), (162, 100)
    # The lower edge of the inner lips first, then the upper: a mouth that shows its teeth.
    landmarks[GROUPS["inner_lips"], 1] = np.repeat((170, 160), 10)
    return [Face(landmarks=landmarks * (min(image.shape[:2]) / 256), confidence=np.ones(NUM_LANDMARKS, np.float32), score=1.0)]


def tiny_face_aligner() -> FaceAligner:
    torch.manual_seed(4)
    aligner = FaceAligner(detector_channels=(4, 4, 4, 4, 4), landmark_channels=(4, 4, 4, 4, 4), crop_size=64).eval()
    aligner.detect = template_face
    return aligner


def ready(pipeline: TalkingHeadPipeline) -> TalkingHeadPipeline:
    """For tests: without a bar, its networks computed by the runtime that the tests are run for."""
    pipeline.set_progress_bar_config(disable=True)
    use_runtime(pipeline, os.environ.get("TEMPOSYNC_RUNTIME", "torch"))
    return pipeline


def tiny_pipeline() -> TempoSyncPipeline:
    torch.manual_seed(3)
    pipeline = TempoSyncPipeline(
        vae=tiny_vae(), denoiser=tiny_denoiser(), identity_encoder=IdentityEncoder(channels=(8, 8, 8)).eval(),
        viseme_classifier=tiny_viseme_classifier(), face_aligner=tiny_face_aligner(), scheduler=TempoSyncScheduler())
    return ready(pipeline)


def asking_all(pipeline: TalkingHeadPipeline) -> TalkingHeadPipeline:
    """With a face aligner whose networks are asked, too, whatever they say."""
    aligner = pipeline.face_aligner

    def detect(image: np.ndarray, *_: object) -> list[Face]:
        aligner.detector(torch.zeros(1, 3, 64, 96))
        aligner.landmark_network(torch.randn(1, 3, 64, 64))
        return template_face(image)

    aligner.detect = detect
    return pipeline


def whole_pipeline() -> TempoSyncPipeline:
    """With every network that the method knows; torch computes them."""
    torch.manual_seed(6)
    parts = tiny_pipeline().components | {
        "vae": tiny_inner_vae(), "denoiser": tiny_denoiser(lip_shape_values=6), "face_aligner": tiny_face_aligner(),
        "lip_motion": LipMotion(hidden_channels=32, channels=8, num_layers=1).eval()}
    pipeline = TempoSyncPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return asking_all(pipeline)


def tiny_whole_face_parts(portrait_channels: int = 0, lips: bool = False) -> dict[str, torch.nn.Module]:
    """What the methods need that move the whole face; output layers that start at zero are random here, so that faces move."""
    torch.manual_seed(5)
    transformer = TalkingHeadTransformer(latent_channels=8, channels=16, num_layers=1, num_heads=2, speech_channels=4,
                                         portrait_channels=portrait_channels, lip_channels=6 * lips)
    for layer in (transformer.leave, transformer.blocks[0].heard, *([transformer.lips[2]] if lips else ())):
        torch.nn.init.normal_(layer.weight, std=0.5)
    return {
        "vae": tiny_vae(), "temporal_vae": AutoencoderTemporal(latent_channels=8, frame_channels=8, width=8).eval(),
        "speech_autoencoder": SpeechAutoencoder(features=32 + 6 + 15, channels=8, tokens=8 if lips else 2, code_channels=4).eval(),
        "transformer": transformer.eval(), "viseme_classifier": tiny_viseme_classifier(),
        "lip_motion": LipMotion(hidden_channels=32, channels=8, num_layers=1).eval(), "face_aligner": tiny_face_aligner()}


def tiny_read_pipeline(lips: bool = False) -> ReadPipeline:
    pipeline = ReadPipeline(**tiny_whole_face_parts(lips=lips), scheduler=AsyncFlowMatchScheduler(), clip_frames=2)
    return ready(pipeline)


def tiny_asymtalker_pipeline() -> AsymTalkerPipeline:
    """Chunks of one new latent frame, eight frames of video, after a kernel of two."""
    scheduler = ChunkedFlowMatchScheduler(kernel_frames=2)
    pipeline = AsymTalkerPipeline(**tiny_whole_face_parts(portrait_channels=8), scheduler=scheduler, chunk_frames=3)
    return ready(pipeline)


def heard(visemes: np.ndarray) -> Hearing:
    """What `listen` yields last where the visemes [T, 15] are given."""
    return Hearing(visemes=visemes, hidden=np.zeros((len(visemes), 32), np.float32), loudness=np.zeros(len(visemes), np.float32))


def picture(height: int = 256, width: int = 256) -> np.ndarray:
    """A smooth coloured picture, uint8 [height, width, 3]."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 60 * np.sin(x / 9)], -1).astype(np.uint8)


def spoken(seconds: float = 0.6, rate: int = 16_000) -> tuple[np.ndarray, int]:
    """(float32 [N], rate): so much real speech, for without a voice lips rest."""
    speech = load_audio(MEDIA / "speech_weather.wav").samples[16_000:]
    return np.resize(soxr.resample(speech, 16_000, rate), int(seconds * rate)), rate
