"""Weights that wait elsewhere: diffusers' ways to offload, on an accelerator that refuses to mix devices."""

import copy

import numpy as np
import pytest
import torch

from temposync_pipeline import TempoSyncPipeline
from temposync_pipeline.models.face_aligner import FaceAligner

from .fake_accelerator import CPU, FakeAccelerator
from .tiny_components import picture, spoken, template_face, tiny_pipeline

pytestmark = pytest.mark.torch_only("others compute on the CPU")

OFFLOADING = {
    "none": lambda pipeline, device: pipeline.to(device),
    "model": lambda pipeline, device: pipeline.enable_model_cpu_offload(device=device),
    "sequential": lambda pipeline, device: pipeline.enable_sequential_cpu_offload(device=device),
    "leaf": lambda pipeline, device: pipeline.enable_group_offload(device, offload_type="leaf_level"),
    "block": lambda pipeline, device: pipeline.enable_group_offload(device, offload_type="block_level", num_blocks_per_group=1),
    "two blocks": lambda pipeline, device: pipeline.enable_group_offload(device, offload_type="block_level", num_blocks_per_group=2),
}


class SeeingAligner(FaceAligner):
    """Random weights find no face: it looks, as the real one does, and then answers with the template."""

    def detect(self, image: np.ndarray, max_faces: int | None = None, threshold: float = 0.5) -> list:
        super().detect(image, max_faces, threshold)
        return template_face(image)


@pytest.fixture(scope="module")
def pipeline() -> TempoSyncPipeline:
    pipeline = tiny_pipeline()
    torch.manual_seed(4)
    aligner = SeeingAligner(detector_channels=(4, 4, 4, 4, 4), landmark_channels=(4, 4, 4, 4, 4), crop_size=64).eval()
    pipeline.register_modules(face_aligner=aligner)
    pipeline.use_bfloat16 = False
    return pipeline


def run(pipeline: TempoSyncPipeline, **changes):
    return pipeline(picture(120, 150), spoken(0.4), 2, torch.Generator().manual_seed(7), **{"output_type": "np", "chunk_size": 4} | changes)


def offloaded(pipeline: TempoSyncPipeline, how: str, device: torch.device) -> TempoSyncPipeline:
    mine = copy.deepcopy(pipeline)
    OFFLOADING[how](mine, device)
    return mine


def test_the_accelerator_refuses_to_mix():
    with FakeAccelerator() as device:
        here, there = torch.ones(3), torch.ones(3, device=device)
        layer = torch.nn.Linear(3, 2).to(device)
        assert layer(there).device == layer.weight.device == (there + 1)[:2].device == device and here.device == there.cpu().device == CPU
        for mix in (lambda: here + there, lambda: layer(here), lambda: torch.cat([here, there])):
            with pytest.raises(RuntimeError, match="same device"):
                mix()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


@pytest.mark.parametrize("how", OFFLOADING)
def test_offloaded_weights_give_the_same_frames(pipeline, how):
    expected = run(pipeline).frames
    with FakeAccelerator() as device:
        mine = offloaded(pipeline, how, device)
        for _ in range(2):
            assert np.array_equal(run(mine).frames, expected)
        stream = mine.stream(picture(120, 150), spoken(0.4), 2, torch.Generator().manual_seed(7), chunk_size=4)
        assert np.array_equal(next(stream), np.rint(255 * expected[:4]).astype(np.uint8))
        stream.close()
        latents = run(mine, output_type="latent").latent_video
        assert np.array_equal(np.concatenate(list(mine.decode_latents(latents))), np.rint(255 * expected).astype(np.uint8))
        if how == "model":  # all back where they wait, after whole calls and those closed early
            models = [part for part in mine.components.values() if isinstance(part, torch.nn.Module)]
            assert {parameter.device for model in models for parameter in model.parameters()} == {CPU}
