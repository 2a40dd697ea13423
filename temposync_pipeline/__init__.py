"""Audio-driven talking heads: a portrait and a speech recording in, a video of that person speaking out.

    from temposync_pipeline import TempoSyncPipeline

    pipe = TempoSyncPipeline.from_pretrained("temposync-tiny")
    pipe.generate_to_file("portrait.jpg", "speech.wav", "talking.mp4")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import FaceError, InvalidAudioError, InvalidImageError, InvalidInputError, InvalidVideoError

if TYPE_CHECKING:
    from .models.autoencoder_temporal import AutoencoderTemporal
    from .models.autoencoder_temposync import AutoencoderTempoSync
    from .models.denoiser_temposync import TempoSyncDenoiser
    from .models.face_aligner import FaceAligner
    from .models.identity_encoder import IdentityEncoder
    from .models.lip_motion import LipMotion
    from .models.speech_autoencoder import SpeechAutoencoder
    from .models.transformer_talking_head import TalkingHeadTransformer
    from .models.viseme_classifier import VisemeClassifier
    from .pipelines.pipeline_asymtalker import AsymTalkerPipeline
    from .pipelines.pipeline_output import TempoSyncPipelineOutput
    from .pipelines.pipeline_read import ReadPipeline
    from .pipelines.pipeline_temposync import TempoSyncPipeline
    from .provenance.credentials import SigningKey
    from .provenance.verify import verify_video
    from .schedulers.scheduling_async_flow_match import AsyncFlowMatchScheduler
    from .schedulers.scheduling_chunked_flow_match import ChunkedFlowMatchScheduler
    from .schedulers.scheduling_temposync import TempoSyncScheduler

__version__ = "0.1.0"

# Loaded on first use: `import temposync_pipeline`, and with it `temposync --help`, must not wait for torch.
_MODULES = {
    "AsymTalkerPipeline": "pipelines.pipeline_asymtalker",
    "AsyncFlowMatchScheduler": "schedulers.scheduling_async_flow_match",
    "AutoencoderTempoSync": "models.autoencoder_temposync",
    "AutoencoderTemporal": "models.autoencoder_temporal",
    "ChunkedFlowMatchScheduler": "schedulers.scheduling_chunked_flow_match",
    "FaceAligner": "models.face_aligner",
    "IdentityEncoder": "models.identity_encoder",
    "LipMotion": "models.lip_motion",
    "ReadPipeline": "pipelines.pipeline_read",
    "SigningKey": "provenance.credentials",
    "SpeechAutoencoder": "models.speech_autoencoder",
    "TalkingHeadTransformer": "models.transformer_talking_head",
    "TempoSyncDenoiser": "models.denoiser_temposync",
    "TempoSyncPipeline": "pipelines.pipeline_temposync",
    "TempoSyncPipelineOutput": "pipelines.pipeline_output",
    "TempoSyncScheduler": "schedulers.scheduling_temposync",
    "VisemeClassifier": "models.viseme_classifier",
    "verify_video": "provenance.verify",
}

__all__ = [
    "AsymTalkerPipeline",
    "AsyncFlowMatchScheduler",
    "AutoencoderTempoSync",
    "AutoencoderTemporal",
    "ChunkedFlowMatchScheduler",
    "FaceAligner",
    "FaceError",
    "IdentityEncoder",
    "InvalidAudioError",
    "InvalidImageError",
    "InvalidInputError",
    "InvalidVideoError",
    "LipMotion",
    "ReadPipeline",
    "SigningKey",
    "SpeechAutoencoder",
    "TalkingHeadTransformer",
    "TempoSyncDenoiser",
    "TempoSyncPipeline",
    "TempoSyncPipelineOutput",
    "TempoSyncScheduler",
    "VisemeClassifier",
    "verify_video",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
