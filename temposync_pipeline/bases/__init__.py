"""What models, schedulers and pipelines inherit: the classes of diffusers and transformers, or, in a process that only makes videos
(`startup.start_lean`), the little of them that this takes (`bases.lean`)."""

from typing import TYPE_CHECKING

from .. import startup

if TYPE_CHECKING or not startup.lean:
    from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.hooks.group_offloading import _get_group_onload_device, _is_group_offload_enabled
    from diffusers.loaders import PeftAdapterMixin
    from diffusers.loaders.lora_base import LoraBaseMixin
    from diffusers.models.attention import AttentionMixin, AttentionModuleMixin
    from diffusers.models.attention_dispatch import dispatch_attention_fn
    from diffusers.utils import BaseOutput
    from diffusers.utils.accelerate_utils import apply_forward_hook
    from huggingface_hub.dataclasses import strict
    from transformers import PreTrainedModel, Wav2Vec2Config, Wav2Vec2Model
    from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2PreTrainedModel
    from transformers.utils import ModelOutput

    def group_offload_device(model):
        """The device that diffusers' group offloading computes a model on; None where it is not offloaded so."""
        return _get_group_onload_device(model) if _is_group_offload_enabled(model) else None

    def rest_weights(components):
        """Nothing: the libraries keep weights where they are told to."""
else:
    from .lean import (
        AttentionMixin,
        AttentionModuleMixin,
        BaseOutput,
        ConfigMixin,
        DiffusionPipeline,
        LoraBaseMixin,
        ModelMixin,
        ModelOutput,
        PeftAdapterMixin,
        PreTrainedModel,
        SchedulerMixin,
        apply_forward_hook,
        dispatch_attention_fn,
        group_offload_device,
        register_to_config,
        rest_weights,
        strict,
    )
    from .wav2vec2 import Wav2Vec2Config, Wav2Vec2Model, Wav2Vec2PreTrainedModel

__all__ = [
    "AttentionMixin", "AttentionModuleMixin", "BaseOutput", "ConfigMixin", "DiffusionPipeline", "LoraBaseMixin", "ModelMixin",
    "ModelOutput", "PeftAdapterMixin", "PreTrainedModel", "SchedulerMixin", "Wav2Vec2Config", "Wav2Vec2Model",
    "Wav2Vec2PreTrainedModel", "apply_forward_hook", "dispatch_attention_fn", "group_offload_device", "register_to_config",
    "rest_weights", "strict",
]
