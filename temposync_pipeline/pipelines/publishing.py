"""A pipeline as a repository of the Hugging Face Hub: weights, model card, and the code that plain diffusers needs to find our classes."""

import json
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

from diffusers import DiffusionPipeline, ModelMixin
from huggingface_hub import HfApi, ModelCard

from ..checkpoints.files import INDEX, index_files, weight_files
from ..errors import InvalidInputError
from ..files import read_bounded
from ..limits import MAX_CONFIG_BYTES

CARD = """\
---
library_name: diffusers
pipeline_tag: image-to-video
tags: [talking-head, lip-sync, audio-driven, diffusion, temposync]
---

# {name}

Makes the person in a portrait speak a recording. `pip install temposync-pipeline`, then

```python
from temposync_pipeline import {pipeline}

pipe = {pipeline}.from_pretrained("{repo_id}")
pipe("portrait.jpg", "speech.wav").save("talking.mp4")
```
"""
REQUIRED_METADATA = ("license", "library_name", "pipeline_tag", "tags")


def push_pipeline(
    pipeline: DiffusionPipeline,
    repo_id: str,
    *,
    extra_models: Mapping[str, ModelMixin],
    model_card: str | PathLike | None = None,
    variant: str | None = None,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
) -> str:
    """Upload, in one commit; returns its address.

    Args:
        extra_models: {folder: model}, saved beside the pipeline's components. model_card: a Markdown file with metadata, which becomes
            README.md; None leaves an existing README.md as it is and starts a repository without one on a short card.
        variant, commit_message, private, token, create_pr: as in diffusers' `push_to_hub`.

    Raises:
        InvalidInputError: a model card without metadata.
    """
    card = None if model_card is None else _read_card(Path(model_card))
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with TemporaryDirectory() as directory:
        folder = Path(directory)
        pipeline.save_pretrained(folder, variant=variant)
        for name, model in extra_models.items():
            model.save_pretrained(folder / name, variant=variant)
        clean_configs(folder)
        if card is None and not api.file_exists(repo_id, "README.md"):
            card = CARD.format(name=repo_id.split("/")[-1], repo_id=repo_id, pipeline=type(pipeline).__name__)
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")
        message = commit_message or f"Upload {type(pipeline).__name__}"
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message, create_pr=create_pr))


def add_code(folder: Path) -> None:
    """One-line modules with which `DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)` finds the classes of this package.

    diffusers looks for the pipeline's class in a root module that `_class_name` names, and for a component's class in
    `<component>/<library>.py`; both only import what is installed.
    """
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    name = index["_class_name"][1] if isinstance(index["_class_name"], list) else index["_class_name"]
    (folder / "pipeline.py").write_text(f"from temposync_pipeline import {name}  # noqa: F401\n", encoding="utf-8")
    for component, entry in index.items():
        if not component.startswith("_") and isinstance(entry, list) and entry[0] is not None:
            library, class_name = entry
            (folder / component).mkdir(exist_ok=True)
            (folder / component / f"{library}.py").write_text(f"from {library} import {class_name}  # noqa: F401\n", encoding="utf-8")
    index["_class_name"] = ["pipeline", name]
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def clean_configs(folder: Path) -> None:
    """Remove from each component's config.json where it was loaded from, a path of this machine, and its number format.

    transformers would load every variant in the format of the one saved last; without the entry it goes by the weights themselves.
    """
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in config.items() if key not in ("_name_or_path", "dtype")}
        if kept != config:
            path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def move_into(folder: Path, staged: Path, variant: str | None) -> None:
    """Put a complete checkpoint in the place of an older one of its variant, of which no weights stay; all else in `folder` does."""
    for part in sorted(path for path in staged.iterdir() if path.is_dir()):
        place = folder / part.name
        place.mkdir(exist_ok=True)
        there, new = os.listdir(place), set(os.listdir(part))
        for name in sorted(new):
            os.replace(part / name, place / name)
        for name in {*weight_files(there, variant), *index_files(there, variant)} - new:  # loaders would take them for its own
            (place / name).unlink()
    for path in sorted(path for path in staged.iterdir() if path.is_file()):
        os.replace(path, folder / path.name)


def _read_card(path: Path) -> str:
    text = read_bounded(path, MAX_CONFIG_BYTES).decode()
    try:
        metadata = ModelCard(text, ignore_metadata_errors=False).data.to_dict()
    except ValueError as error:
        raise InvalidInputError(f"{path.name}: its metadata are not YAML") from error
    missing = [key for key in REQUIRED_METADATA if not metadata.get(key)]
    if missing:
        raise InvalidInputError(f"{path.name}: its metadata lack {', '.join(missing)}")
    return text
