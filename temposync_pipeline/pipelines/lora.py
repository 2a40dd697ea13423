"""LoRA adapters of the denoiser: a person's own way to move the mouth in a file of about 1 MB.

    pipe.load_lora_weights("runs/anna", adapter_name="anna")   # a folder, a file, a state dict, or org/name
    pipe.set_adapters("anna", 0.8)
    pipe.unload_lora_weights()

`set_adapters`, `disable_lora` and the rest are diffusers' (`LoraBaseMixin`). Needs peft: `pip install temposync-pipeline[lora]`.
"""

import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from ..bases import LoraBaseMixin
from ..checkpoints.schema import check_header
from ..errors import InvalidInputError
from ..files import plain_write_errors
from ..models.denoiser_temposync import TempoSyncDenoiser

COMPONENT = "denoiser"
# What of a denoiser an adapter adapts: all that mixes channels, but for the layers at both ends.
TARGET_MODULES = ("conv1", "conv2", "modulation", "to_qkv", "to_out", "identity_embedding")


class LoraLoaderMixin(LoraBaseMixin):
    """diffusers' LoRA methods for a pipeline with a `denoiser`."""

    _lora_loadable_modules = [COMPONENT]

    @classmethod
    def lora_state_dict(
        cls, pretrained_model_name_or_path_or_dict: str | PathLike | dict[str, torch.Tensor], *, weight_name: str | None = None,
        **hub_options: Any,
    ) -> tuple[dict[str, torch.Tensor], dict | None]:
        """The tensors of an adapter ("denoiser.….lora_A.weight") and its metadata; only safetensors are ever read."""
        from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE, _fetch_state_dict

        source = pretrained_model_name_or_path_or_dict
        if not isinstance(source, dict) and weight_name is None:
            if Path(source).is_file():
                source, weight_name = Path(source).parent, Path(source).name
            elif Path(source).is_dir():
                weight_name = LORA_WEIGHT_NAME_SAFE
        if weight_name is not None and not weight_name.endswith(".safetensors"):  # diffusers would read a pickle of tensors
            raise InvalidInputError(f"{weight_name}: no readable safetensors file of an adapter, and no other kind is ever read")
        options = dict.fromkeys(("subfolder", "local_files_only", "cache_dir", "force_download", "proxies", "token", "revision"))
        if unknown := sorted(set(hub_options) - set(options)):
            raise InvalidInputError(f"load_lora_weights does not know {', '.join(unknown)}")
        if not isinstance(source, dict) and (path := Path(source, hub_options.get("subfolder") or "", weight_name or "")).is_file():
            check_header(path)
        return _fetch_state_dict(
            pretrained_model_name_or_path_or_dict=source if isinstance(source, dict) else str(source), weight_name=weight_name,
            use_safetensors=True, allow_pickle=False, user_agent={"file_type": "attn_procs_weights", "framework": "pytorch"},
            **options | hub_options)

    def load_lora_weights(
        self, pretrained_model_name_or_path_or_dict: str | PathLike | dict[str, torch.Tensor], adapter_name: str | None = None,
        hotswap: bool = False, **options: Any,
    ) -> None:
        """Load an adapter into the denoiser and use it.

        Args:
            pretrained_model_name_or_path_or_dict: a file, a folder that `save_lora_weights` wrote, org/name on the Hub, or tensors.
            adapter_name: to tell several apart. hotswap: take the place of the adapter of that name.
            options: `weight_name`, `revision`, `subfolder`, `cache_dir`, `token`, `local_files_only`, `force_download`, as everywhere.

        Raises:
            InvalidInputError: peft is not installed, or the file is no adapter, damaged, or made for another denoiser.
        """
        check_peft()
        source = pretrained_model_name_or_path_or_dict
        label = "the adapter" if isinstance(source, dict) else Path(source).name
        try:
            state_dict, metadata = self.lora_state_dict(source, **options)
        except InvalidInputError:
            raise
        except Exception as error:  # safetensors', the Hub's and the disk's
            raise InvalidInputError(f"{label}: no readable safetensors file of an adapter") from error
        prefix = f"{COMPONENT}."
        if not state_dict or not all(name.startswith(prefix) and "lora" in name for name in state_dict):
            raise InvalidInputError(f"{label}: not a LoRA adapter of a TempoSync denoiser")
        if not all(tensor.isfinite().all() for tensor in state_dict.values()):
            raise InvalidInputError(f"{label}: weights that are not finite")
        known = {name.rpartition(".")[0] for name in self.denoiser.state_dict()}  # type: ignore[attr-defined]
        for name in state_dict:
            layer = name.removeprefix(prefix).split(".lora_")[0]
            if layer not in known and f"{layer}.base_layer" not in known:
                raise InvalidInputError(f"{label}: made for another denoiser, this one has no {layer}")
        try:
            self.denoiser.load_lora_adapter(  # type: ignore[attr-defined]
                state_dict, prefix=COMPONENT, adapter_name=adapter_name, metadata=metadata, _pipeline=self, hotswap=hotswap)
        except RuntimeError as error:
            raise InvalidInputError(f"{label}: made for another denoiser, whose layers have other sizes") from error

    def fuse_lora(self, components: Sequence[str] = (COMPONENT,), **options: Any) -> None:
        """Add the active adapters to the denoiser's own weights, which saves their time; arguments as in diffusers."""
        super().fuse_lora(components=list(components), **options)

    def unfuse_lora(self, components: Sequence[str] = (COMPONENT,), **options: Any) -> None:
        """Undo `fuse_lora`."""
        super().unfuse_lora(components=list(components), **options)

    @classmethod
    def save_lora_weights(
        cls, save_directory: str | PathLike, denoiser_lora_layers: dict[str, torch.Tensor] | torch.nn.Module,
        weight_name: str | None = None, denoiser_lora_adapter_metadata: dict | None = None,
    ) -> None:
        """Write an adapter's tensors (peft's `get_peft_model_state_dict(denoiser)`) as `pytorch_lora_weights.safetensors` into a folder."""
        cls._save_lora_weights(
            save_directory=save_directory, lora_layers={COMPONENT: denoiser_lora_layers},
            lora_metadata={COMPONENT: denoiser_lora_adapter_metadata}, weight_name=weight_name, safe_serialization=True)


def add_lora(denoiser: TempoSyncDenoiser, rank: int) -> None:
    """Freeze a denoiser and give it a fresh adapter of that rank, which changes nothing yet, to be trained."""
    check_peft()
    from peft import LoraConfig

    denoiser.requires_grad_(False)
    denoiser.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGET_MODULES)))


def save_lora(denoiser: TempoSyncDenoiser, folder: str | PathLike) -> None:
    """Write a denoiser's adapter, as `LoraLoaderMixin.load_lora_weights` reads it."""
    from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
    from peft.utils import get_peft_model_state_dict

    config = denoiser.peft_config["default"].to_dict()
    metadata = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    tensors = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(denoiser).items()}
    # Under a hidden name first, so that a file of this name is always whole.
    staged = f".{LORA_WEIGHT_NAME_SAFE}"
    try:
        with plain_write_errors(Path(folder)):
            LoraLoaderMixin.save_lora_weights(folder, tensors, staged, denoiser_lora_adapter_metadata=metadata)
        os.replace(Path(folder) / staged, Path(folder) / LORA_WEIGHT_NAME_SAFE)
    finally:
        (Path(folder) / staged).unlink(missing_ok=True)


def check_peft() -> None:
    """Raises InvalidInputError where peft is not installed."""
    from diffusers.utils import is_peft_available

    if not is_peft_available():
        raise InvalidInputError("LoRA adapters need peft: pip install temposync-pipeline[lora]")
