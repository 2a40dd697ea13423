"""The encoder of wav2vec 2.0 (Baevski et al. 2020), inference only; its weights have the names that they have in transformers."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn

from .lean import PreTrainedModel

ACTIVATIONS = {"gelu": nn.functional.gelu, "relu": nn.functional.relu}


@dataclass
class Wav2Vec2Config:
    """Settings that the network has beside those of `models.viseme_classifier.VisemeClassifierConfig`."""

    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 0
    mask_time_prob: float = 0.05
    mask_feature_prob: float = 0.0


class ConvolutionLayer(nn.Module):
    """[B, C, N] -> [B, C', N'], normalised over channels ("layer"), over time ("group", the first layer only) or not."""

    def __init__(self, config: Wav2Vec2Config, index: int):
        super().__init__()
        inputs, outputs = (1, *config.conv_dim)[index:index + 2]
        self.conv = nn.Conv1d(inputs, outputs, config.conv_kernel[index], config.conv_stride[index], bias=config.conv_bias)
        self.over_channels = config.feat_extract_norm == "layer"
        if self.over_channels:
            self.layer_norm = nn.LayerNorm(outputs)
        elif index == 0:
            self.layer_norm = nn.GroupNorm(outputs, outputs)
        self.activation = ACTIVATIONS[config.feat_extract_activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if self.over_channels:
            x = self.layer_norm(x.transpose(1, 2)).transpose(1, 2)
        elif hasattr(self, "layer_norm"):
            x = self.layer_norm(x)
        return self.activation(x)


class FeatureExtractor(nn.Module):
    """Waveform [B, N] -> features [B, frames, C]."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.conv_layers = nn.ModuleList(ConvolutionLayer(config, index) for index in range(len(config.conv_dim)))

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        x = samples[:, None]
        for layer in self.conv_layers:
            x = layer(x)
        return x.transpose(1, 2)


class FeatureProjection(nn.Module):
    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.conv_dim[-1], config.layer_norm_eps)
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projection(self.layer_norm(x))


class NormedConvolution(nn.Module):
    """A grouped convolution over time whose kernel is a direction and a length for each of its taps (weight normalisation)."""

    def __init__(self, width: int, length: int, groups: int):
        super().__init__()
        self.padding, self.groups = length // 2, groups
        # Called as torch's own parametrisation does, whose constructor would import a symbolic algebra.
        scale, direction = torch.empty(1, 1, length), torch.empty(width, width // groups, length)
        self.parametrizations = nn.ModuleDict({"weight": nn.ParameterDict({"original0": scale, "original1": direction})})
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.parametrizations["weight"]
        weight = torch._weight_norm(normed["original1"], normed["original0"], 2)
        return nn.functional.conv1d(x, weight, self.bias, padding=self.padding, groups=self.groups)


class PositionalConvolution(nn.Module):
    """Where in the sound a frame is, told by its neighbours."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.conv = NormedConvolution(config.hidden_size, config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups)
        self.activation = ACTIVATIONS[config.feat_extract_activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.conv(x.transpose(1, 2))[..., :x.shape[1]]).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.heads = config.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(config.hidden_size, config.hidden_size) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output_dense(self.activation(self.intermediate_dense(x)))


class EncoderLayer(nn.Module):
    """Transformer layer, normalised before each half (`do_stable_layer_norm`) or after it."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.normed_first = config.do_stable_layer_norm
        self.attention, self.feed_forward = Attention(config), FeedForward(config)
        self.layer_norm, self.final_layer_norm = (nn.LayerNorm(config.hidden_size, config.layer_norm_eps) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.normed_first:
            x = x + self.attention(self.layer_norm(x))
            return x + self.feed_forward(self.final_layer_norm(x))
        x = self.layer_norm(x + self.attention(x))
        return self.final_layer_norm(x + self.feed_forward(x))


class Encoder(nn.Module):
    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.normed_first = config.do_stable_layer_norm
        self.pos_conv_embed = PositionalConvolution(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.pos_conv_embed(x)
        x = x if self.normed_first else self.layer_norm(x)
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x) if self.normed_first else x


class Wav2Vec2Model(nn.Module):
    """Waveform [B, N] -> an output with `last_hidden_state` [B, frames, hidden_size]; no attention mask."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.feature_extractor = FeatureExtractor(config)
        self.feature_projection = FeatureProjection(config)
        if config.mask_time_prob > 0 or config.mask_feature_prob > 0:
            self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size))  # of training, in every checkpoint
        self.encoder = Encoder(config)

    def forward(self, input_values: torch.Tensor, attention_mask: None = None) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.encoder(self.feature_projection(self.feature_extractor(input_values))))


class Wav2Vec2PreTrainedModel(PreTrainedModel):
    """A model around `Wav2Vec2Model`."""
