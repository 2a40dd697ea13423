"""What a checkpoint may hold beside the pipeline's own components: teacher, judges, baselines."""

from pathlib import Path

import torch

from ..checkpoints import checkpoint_folder
from ..errors import InvalidInputError


def load_optional(model_class: type, model: str, subfolder: str, device: str):
    """A component of a checkpoint, in single precision; None where it has none of that name."""
    try:
        folder = checkpoint_folder(model, [subfolder])
        if not (Path(folder) / subfolder).is_dir():
            return None
        return model_class.from_pretrained(folder, subfolder=subfolder, torch_dtype=torch.float32, use_safetensors=True).to(device).eval()
    except InvalidInputError:
        return None
