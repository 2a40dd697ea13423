"""How a checkpoint's files are called."""

import re
from collections.abc import Iterable

INDEX = "model_index.json"


def weight_files(names: Iterable[str], variant: str | None = None) -> list[str]:
    """The safetensors of one component, whole or in shards, of this variant alone."""
    suffix = f".{re.escape(variant)}" if variant else ""
    return [name for name in names if re.search(rf"(^|/)(diffusion_pytorch_)?model{suffix}(-\d+-of-\d+)?\.safetensors$", name)]


def index_files(names: Iterable[str], variant: str | None = None) -> list[str]:
    """The lists of shards of one component, of this variant alone."""
    suffix = f".{re.escape(variant)}" if variant else ""
    return [name for name in names if re.search(rf"(^|/)(diffusion_pytorch_)?model\.safetensors\.index{suffix}\.json$", name)]
