"""Whether exported ONNX networks compute the same on another kind of CPU.

    temposync export --format onnx --output onnx
    python examples/onnx_numerics.py write onnx numbers.npz        # here
    python examples/onnx_numerics.py compare onnx numbers.npz      # there, or under an emulator

`write` keeps random inputs, and what this CPU makes of them; `compare` prints the relative error of each network (root mean square).
Needs NumPy and ONNX Runtime alone.
"""

import platform
import sys
from pathlib import Path

import numpy as np
import onnxruntime

# Sizes of what may have any: frames in a batch, then rows and columns of latents, or frames of sound.
BATCH = 2
SIZES = {"decoder": (7, 8), "encoder": (256, 256), "face_detector": (256, 256), "lip_motion": (25,), "viseme_classifier": (16_000,),
         "speech_encoder": (17,), "temporal_encoder": (16,), "temporal_decoder": (3,)}


def open_network(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def random_inputs(name: str, network: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    inputs = {}
    for given in network.get_inputs():
        free = iter((BATCH, *SIZES.get(name, ())))
        shape = [size if isinstance(size, int) else next(free) for size in given.shape]
        # Whether conditions are given: they are.
        inputs[given.name] = np.ones(shape, bool) if given.type == "tensor(bool)" else generator.normal(size=shape).astype(np.float32)
    return inputs


def main(task: str, folder: str, file: str) -> None:
    paths = sorted(Path(folder).glob("*.onnx"))
    if task == "write":
        numbers = {}
        for path in paths:
            network = open_network(path)
            inputs = random_inputs(path.stem, network)
            numbers |= {f"{path.stem}/in/{name}": value for name, value in inputs.items()}
            numbers |= {f"{path.stem}/out/{index}": value for index, value in enumerate(network.run(None, inputs))}
        np.savez(file, **numbers)
        return
    numbers = np.load(file)
    print(platform.machine(), "ONNX Runtime", onnxruntime.__version__)
    for path in paths:
        inputs = {key.split("/")[2]: numbers[key] for key in numbers if key.startswith(f"{path.stem}/in/")}
        errors = []
        for index, value in enumerate(open_network(path).run(None, inputs)):
            expected = numbers[f"{path.stem}/out/{index}"]
            errors.append(np.sqrt(np.mean((value - expected) ** 2) / np.mean(expected**2)))
        print(f"{path.stem:20s} {max(errors):.1e}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
