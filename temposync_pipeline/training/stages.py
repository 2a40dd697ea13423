"""The stages of `temposync train`: each a module of this package with a dataclass `Config` and a function `train(config)`."""

from pathlib import Path

from ..checkpoints import checkpoint_folder
from ..errors import InvalidInputError

# What a stage trains is called in a checkpoint.
COMPONENTS = {
    "aligner": "face_aligner", "autoencoder": "vae", "decoder": "vae", "inner_mouth": "vae", "visemes": "viseme_classifier",
    "ear": "viseme_classifier", "identity": "identity_encoder", "sync": "sync_expert", "lips": "lip_motion", "teacher": "teacher",
    "student": "denoiser", "temporal": "temporal_vae", "speech": "speech_autoencoder", "read": "transformer",
    "asym_teacher": "transformer", "asym_student": "transformer",
}


def initial_weights(stage: str, init: str) -> str:
    """The folder a stage's first weights come from; `init` is a bundled name, org/name, a checkpoint's folder or the component's own.

    Raises InvalidInputError for a stage whose result is not part of a checkpoint.
    """
    if stage not in COMPONENTS:
        raise InvalidInputError(f"train {stage} begins anew; it takes no --init")
    folder = Path(init) if Path(init).is_dir() else checkpoint_folder(init, (COMPONENTS[stage],))
    component = folder / COMPONENTS[stage]
    return str(component if component.is_dir() else folder)
