"""What a checkpoint may hold beside the pipeline's own components: teacher, judges, baselines."""

from ..checkpoints import checkpoint_folder
from ..errors import InvalidInputError
from ..files import called
from ..pipelines.loading import load_component


def load_optional(model_class: type, model: str, subfolder: str, device: str):
    """A component of a checkpoint, in single precision; None where it has none of that name."""
    try:
        folder = checkpoint_folder(model, [subfolder]) / subfolder
    except InvalidInputError:
        return None
    return load_component(model_class, folder, called(model)).to(device).eval() if folder.is_dir() else None
