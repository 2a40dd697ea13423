"""Loading and saving of the pipeline, as directories and as repositories of the Hugging Face Hub."""

from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline

from ..checkpoints import checkpoint_folder
from ..models.denoiser_temposync import TempoSyncDenoiser
from ..schedulers.scheduling_temposync import TempoSyncScheduler
from .loading import DTypes, component_classes, load_pipeline_parts
from .publishing import clean_configs, push_pipeline


class HubPipeline(DiffusionPipeline):
    """A diffusers pipeline that loads safetensors of verified origin only, and that publishes itself with a model card."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike,
        *,
        denoiser: str | TempoSyncDenoiser = "denoiser",
        dtype: DTypes = torch.float32,
        variant: str | None = None,
        revision: str | None = None,
        cache_dir: str | PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        **overrides: Any,
    ) -> Self:
        """Load a bundled checkpoint by name ("temposync-tiny", no network), else a directory, else org/name from the Hub.

        Files from the Hub stay in its cache and are checked against their published hashes; once complete, the cache is enough without
        a network. Only safetensors are read, and no code of a repository is run. Move the result with `.to("cuda")`.

        Args:
            denoiser: folder of the denoiser: "denoiser" is the student, "teacher" the teacher, which comes with its own sampler (give it
                `num_inference_steps=25`). Or a loaded denoiser.
            dtype: of all weights, or {component: dtype}, where "default" stands for those not named.
            variant: "fp16" reads `*.fp16.safetensors` where they exist. revision: branch, tag or commit.
            cache_dir, token, local_files_only, force_download: as everywhere in huggingface_hub.
            overrides: components and settings by name, in place of the checkpoint's (`vae=…`, `mouth_amplitude=1.0`).

        Raises:
            InvalidInputError: no such checkpoint, revision, variant or component, or files that are damaged, pickled or do not fit.
            ConnectionError: the Hub cannot be reached and the cache is not complete.
        """
        dtype = overrides.pop("torch_dtype", dtype)  # its name in older versions of diffusers
        overrides.pop("use_safetensors", None)
        if not isinstance(denoiser, str):
            overrides["denoiser"] = denoiser
        elif denoiser == "teacher":
            overrides.setdefault("scheduler", TempoSyncScheduler(prediction="sde"))
        parts = load_pipeline_parts(
            cls, pretrained_model_name_or_path, subfolders={"denoiser": str(denoiser)}, given=overrides, dtype=dtype, variant=variant,
            revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only, force_download=force_download)
        return cls(**parts | overrides)

    @classmethod
    def download(cls, pretrained_model_name: str, *, variant: str | None = None, **hub_options: Any) -> str:
        """Fetch and verify org/name without loading it; returns its folder in the cache. Keyword arguments of `from_pretrained`."""
        return str(checkpoint_folder(pretrained_model_name, component_classes(cls), variant=variant, **hub_options))

    def save_pretrained(
        self, save_directory: str | PathLike, safe_serialization: bool = True, variant: str | None = None, push_to_hub: bool = False,
        **hub_options: Any,
    ) -> None:
        """Write all components as safetensors, in diffusers layout.

        With `push_to_hub`, upload as well, to `repo_id` or a repository named like the directory; the other keyword arguments are those
        of `push_to_hub`.
        """
        if not safe_serialization:
            raise ValueError("Weights are only ever saved as safetensors.")
        super().save_pretrained(save_directory, variant=variant)
        clean_configs(Path(save_directory))
        if push_to_hub:
            self.push_to_hub(hub_options.pop("repo_id", Path(save_directory).absolute().name), variant=variant, **hub_options)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        teacher: TempoSyncDenoiser | None = None,
        model_card: str | PathLike | None = None,
        variant: str | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload to the Hub; returns the commit's address.

        The repository then loads with this class, and with `DiffusionPipeline.from_pretrained(repo_id, trust_remote_code=True)` as well.

        Args:
            teacher: is put into the folder "teacher", beside the student in "denoiser".
            model_card: a Markdown file with metadata, uploaded as README.md. None keeps an existing README.md and starts a repository that
                has none with a short one.
            variant, commit_message, private, token, create_pr: as everywhere in diffusers.
        """
        return push_pipeline(
            self, repo_id, extra_models={"teacher": teacher} if teacher else {}, model_card=model_card, variant=variant,
            commit_message=commit_message, private=private, token=token, create_pr=create_pr)
