"""A checkpoint of a method that moves whole faces, out of what its stages trained and another checkpoint's networks.

    python examples/whole_face_checkpoint.py --temporal runs/temporal --speech runs/speech --read runs/read --output runs/whole_face

makes one of READ; `--asym runs/asym_student` in the place of `--read` one of AsymTalker.  `temposync generate --model runs/whole_face …`
then uses it.  Weights are written in half precision.
"""

import argparse
from pathlib import Path

import torch

from temposync_pipeline import (
    AsymTalkerPipeline,
    AsyncFlowMatchScheduler,
    AutoencoderTemporal,
    ChunkedFlowMatchScheduler,
    ReadPipeline,
    TempoSyncPipeline,
)
from temposync_pipeline.models.speech_autoencoder import SpeechAutoencoder
from temposync_pipeline.models.transformer_talking_head import TalkingHeadTransformer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("temporal", "speech", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    method = parser.add_mutually_exclusive_group(required=True)
    for name in ("read", "asym"):
        method.add_argument(f"--{name}", type=Path, help="run of the stage that trained the transformer")
    parser.add_argument("--joint_smoothing", type=float, default=0.0, help="of the temporal autoencoder")
    parser.add_argument("--speech_guidance", type=float, default=1.0, help="READ's, where a call does not say")
    parser.add_argument("--base", default="temposync-tiny", help="checkpoint with the picture autoencoder, the ear and the aligner")
    arguments = parser.parse_args()
    base = TempoSyncPipeline.from_pretrained(arguments.base)
    run = arguments.read or arguments.asym
    pipeline, scheduler = (ReadPipeline, AsyncFlowMatchScheduler) if arguments.read else (AsymTalkerPipeline, ChunkedFlowMatchScheduler)
    temporal = AutoencoderTemporal.from_pretrained(arguments.temporal / "temporal_vae")
    temporal.register_to_config(joint_smoothing=arguments.joint_smoothing)
    pipe = pipeline(
        vae=base.vae, viseme_classifier=base.viseme_classifier, lip_motion=base.lip_motion, face_aligner=base.face_aligner,
        temporal_vae=temporal,
        speech_autoencoder=SpeechAutoencoder.from_pretrained(arguments.speech / "speech_autoencoder"),
        transformer=TalkingHeadTransformer.from_pretrained(run / "transformer"),
        scheduler=scheduler.from_pretrained(run / "scheduler"),
        **{"speech_guidance": arguments.speech_guidance} if arguments.read else {})
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    for network in networks:
        network.half()
    pipe.save_pretrained(arguments.output)
    print(f"{arguments.output}: {sum(part.num_parameters() for part in networks) / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
