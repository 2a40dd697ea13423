"""The pipeline that a checkpoint is made for."""

from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

from ..checkpoints import checkpoint_folder
from ..checkpoints.files import INDEX
from ..checkpoints.schema import read_json
from ..errors import InvalidInputError
from .talking_head import TalkingHeadPipeline

MODULES = {"TempoSyncPipeline": "pipeline_temposync", "ReadPipeline": "pipeline_read",
           "AsymTalkerPipeline": "pipeline_asymtalker"}


def pipeline_class(name: str | PathLike, **hub_options: Any) -> type[TalkingHeadPipeline]:
    """The class that a checkpoint's model_index.json names, one of `MODULES`; no code of a repository is run.

    Args:
        name: a bundled name, a directory, or org/name. hub_options: see `checkpoints.hub.download_checkpoint`.

    Raises:
        InvalidInputError: no such checkpoint, or one for another pipeline. ConnectionError: the Hub cannot be reached.
    """
    path = checkpoint_folder(name, (), **hub_options) / INDEX
    try:
        listed = read_json(path)["_class_name"]
        class_name = listed[-1] if isinstance(listed, list) else listed
        module = MODULES[class_name]
    except (OSError, InvalidInputError, KeyError, TypeError, IndexError) as error:
        label = path.absolute().parent.name if Path(name).is_dir() else name
        raise InvalidInputError(f"{label}: its {INDEX} names none of {', '.join(MODULES)}") from error
    return getattr(import_module(f".{module}", __package__), class_name)


def load_pipeline(name: str | PathLike, **options: Any) -> TalkingHeadPipeline:
    """`from_pretrained` of the class that the checkpoint is made for; `options` are its keyword arguments."""
    hub = {key: options[key] for key in ("revision", "cache_dir", "token", "local_files_only", "force_download") if key in options}
    return pipeline_class(name, **hub).from_pretrained(name, **options)
