"""Loading and saving of the pipeline, as directories and as repositories of the Hugging Face Hub."""

import os
import shutil
from collections.abc import Mapping
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from ..bases import DiffusionPipeline, ModelMixin
from ..checkpoints import checkpoint_folder, public_name
from ..checkpoints.files import INDEX
from ..errors import InvalidInputError
from ..export import check_runtime
from ..files import unfinished
from .loading import LOADER_OPTIONS, DTypes, component_classes, load_pipeline_parts

if TYPE_CHECKING:
    from diffusers import PipelineQuantizationConfig


class HubPipeline(DiffusionPipeline):
    """A diffusers pipeline that loads safetensors of verified origin only, and that publishes itself with a model card.

    `model_name` and `model_revision` are what videos say of the checkpoint that made them (`checkpoints.public_name`); `runtime` is what
    computes its large networks on a CPU: "torch", "openvino" or "onnxruntime".
    """

    model_name, model_revision = "custom", ""
    runtime = "torch"

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike,
        *,
        dtype: DTypes = torch.float32,
        variant: str | None = None,
        revision: str | None = None,
        cache_dir: str | PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        device_map: str | None = None,
        max_memory: Mapping[int | str, int | str] | None = None,
        quantization_config: "PipelineQuantizationConfig | None" = None,
        runtime: str | None = None,
        **overrides: Any,
    ) -> Self:
        """Load a bundled checkpoint by name (`checkpoints.BUNDLED`, no network), else a directory, else org/name from the Hub.

        Files from the Hub stay in its cache and are checked against their published hashes; once complete, the cache is enough without
        a network. Only safetensors are read, and no code of a repository is run. Move the result with `.to("cuda")`.

        Args:
            dtype: of all weights, or {component: dtype}, where "default" stands for those not named.
            variant: "fp16" reads `*.fp16.safetensors` where they exist. revision: branch, tag or commit.
            cache_dir, token, local_files_only, force_download: as everywhere in huggingface_hub.
            device_map: "cuda" loads straight there, "balanced" spreads the components over several accelerators, within `max_memory`.
            quantization_config: of diffusers, for the components that it names.
            runtime: what computes the large networks on a CPU: "torch", "openvino", "onnxruntime" or "auto" (`export.runtimes`);
                None = what the environment variable TEMPOSYNC_RUNTIME says, else torch.
            overrides: components and settings by name, in place of the checkpoint's (`vae=…`, `mouth_amplitude=1.0`), and diffusers'
                `low_cpu_mem_usage`, `offload_folder` and `offload_state_dict`.  Of `TempoSyncPipeline`, `denoiser` may name a folder:
                "denoiser" is the student, "teacher" the teacher, which comes with its own sampler (give it `num_inference_steps=25`).

        Raises:
            InvalidInputError: no such checkpoint, revision, variant or component, an argument that nothing here knows, or files that are
                damaged, pickled or do not fit; before anything is loaded, where that can be told.
            ConnectionError: the Hub cannot be reached and the cache is not complete.
        """
        dtype = overrides.pop("torch_dtype", dtype)  # its name in older versions of diffusers
        if not overrides.pop("use_safetensors", True):
            raise InvalidInputError("use_safetensors=False: only safetensors are ever loaded")
        loader_options = {name: overrides.pop(name) for name in LOADER_OPTIONS if name in overrides}
        if unknown := sorted(set(overrides) - set(signature(cls).parameters)):
            raise InvalidInputError(f"{cls.__name__}.from_pretrained does not know {', '.join(unknown)}")
        runtime = runtime or os.environ.get("TEMPOSYNC_RUNTIME") or "torch"
        check_runtime(runtime)
        subfolders = cls._take_folders(overrides)
        parts, placed, folder = load_pipeline_parts(
            cls, pretrained_model_name_or_path, subfolders=subfolders, given=overrides, dtype=dtype, variant=variant,
            revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only, force_download=force_download,
            device_map=device_map, max_memory=max_memory, quantization_config=quantization_config, loader_options=loader_options)
        pipeline = cls(**parts | overrides)
        pipeline.model_name, pipeline.model_revision = public_name(pretrained_model_name_or_path, folder)
        if placed is not None:
            pipeline.hf_device_map = placed
        if quantization_config is not None:
            pipeline.quantization_config = quantization_config
        if runtime != "torch":
            from ..export.runtimes import load_runtime

            load_runtime(pipeline, runtime, pretrained_model_name_or_path, revision=revision, cache_dir=cache_dir, token=token,
                         local_files_only=local_files_only)
        return pipeline

    @classmethod
    def _take_folders(cls, overrides: dict[str, Any]) -> dict[str, str]:
        """{component: folder} where it is not called like the component, taken out of `overrides`."""
        return {}

    @classmethod
    def download(cls, pretrained_model_name: str, *, variant: str | None = None, **hub_options: Any) -> str:
        """Fetch and verify org/name without loading it; returns its folder in the cache. Keyword arguments of `from_pretrained`."""
        return str(checkpoint_folder(pretrained_model_name, component_classes(cls), variant=variant, **hub_options))

    def save_pretrained(
        self, save_directory: str | PathLike, safe_serialization: bool = True, variant: str | None = None,
        max_shard_size: int | str | None = None, push_to_hub: bool = False, **hub_options: Any,
    ) -> None:
        """Write all components as safetensors, in diffusers layout.

        The folder loads with this class, and with `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` as well. Weights
        above `max_shard_size` (bytes, or "5GB") are split. With `push_to_hub`, upload as well, to `repo_id` or a repository named like the
        directory; the other keyword arguments are those of `push_to_hub`. An older checkpoint in the folder is replaced once the new one
        is complete; what else is there stays. Raises InvalidInputError for arguments that nothing here knows, and for adapters.
        """
        if not safe_serialization:
            raise ValueError("Weights are only ever saved as safetensors.")
        known = {"repo_id", *signature(self.push_to_hub).parameters} if push_to_hub else set()
        if unknown := sorted(set(hub_options) - known):
            raise InvalidInputError(f"save_pretrained does not know {', '.join(unknown)}" + ("" if push_to_hub else " without push_to_hub"))
        for name, part in self.components.items():
            if getattr(part, "peft_config", None):
                raise InvalidInputError(
                    f"{name}: has an adapter, which save_pretrained cannot write: call unload_lora_weights() first, and before that "
                    "fuse_lora() to keep what it adds")
        from .publishing import add_code, clean_configs, move_into

        target = Path(save_directory)
        target.mkdir(parents=True, exist_ok=True)
        staged = unfinished(target / INDEX, "")
        try:
            super().save_pretrained(staged, variant=variant, max_shard_size=max_shard_size)
            clean_configs(staged)
            add_code(staged)
            move_into(target, staged, variant)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        if push_to_hub:
            self.push_to_hub(hub_options.pop("repo_id", Path(save_directory).absolute().name), variant=variant, **hub_options)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        teacher: ModelMixin | None = None,
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
        from .publishing import push_pipeline

        return push_pipeline(
            self, repo_id, extra_models={"teacher": teacher} if teacher else {}, model_card=model_card, variant=variant,
            commit_message=commit_message, private=private, token=token, create_pr=create_pr)
