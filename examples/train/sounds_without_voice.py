"""Sounds in which nobody speaks, for the stage `voice`: music of a sound font, loops of sampled drums, rings, birds, sirens, noise.

    pip install mido
    python examples/train/sounds_without_voice.py --soundfont FluidR3_GM.sf2 --samples DRUMKITS --output OTHER/fluid
    python examples/train/sounds_without_voice.py --soundfont freepats.cfg --first 500 --output OTHER/freepats
    python examples/train/sounds_without_voice.py --signals 0 --synthesised 0 --modelled 80 --output OTHER/modelled
    python examples/train/sounds_without_voice.py --signals 0 --synthesised 0 --recordings MUSIC --output OTHER/played

Needs FluidSynth's command, or TiMidity's where the sound font is one of its configurations (.cfg); the more sound fonts, the better is what
was never heard told from a voice. `--modelled` needs stk-demo of the Synthesis ToolKit (Debian's package stk). `--samples` is a folder of
single drum strokes, `--recordings` one of music without singing, both in any sound format, searched with their subfolders. Each file
written is a WAV of 20 s at 16 kHz; a number belongs to one sound for ever, so that a longer run goes on where a shorter one ended.
"""

import argparse
import subprocess
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import mido
import numpy as np
from scipy.io import wavfile
from tqdm import tqdm

from temposync_pipeline.data.speech_augmentation import coloured_noise
from temposync_pipeline.errors import InvalidAudioError
from temposync_pipeline.media.audio import load_audio

RATE, SECONDS = 16_000, 20
SCALES = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 6, 7, 10)
DRUM_CHANNEL, DRUM_KITS = 9, (0, 8, 16, 24, 25, 32, 40, 48)
# Choirs and breath: closer to a voice than what should be silence.
SUNG = {52, 53, 54, 85, 91, 121}
PROGRAMS = [program for program in range(128) if program not in SUNG]
# Instruments whose tone wanders like a voice's, or has formants: organs, guitars, bowed strings, brass, reeds, pipes, leads, pads.
VOICE_LIKE = [program for program in (*range(16, 24), *range(26, 32), *range(40, 46), *range(48, 52), *range(54, 97), *range(104, 112), 120)
              if program not in SUNG - {54, 85, 91}]

# Strings, bars, pipes and horns that the Synthesis ToolKit computes; neither its voices nor what goes on without notes.
MODELS = ("Clarinet", "BlowHole", "Saxofony", "Flute", "Brass", "BlowBotl", "Bowed", "Plucked", "StifKarp", "Sitar", "Mandolin", "Rhodey",
          "Wurley", "TubeBell", "HevyMetl", "PercFlut", "BeeThree", "Moog", "Simple", "BandedWG", "ModalBar", "Whistle", "Recorder")
EXCERPTS = 2  # of each recording, one after the other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--soundfont", type=Path)
    parser.add_argument("--samples", type=Path, help="folder of single drum strokes")
    parser.add_argument("--recordings", type=Path, help="folder of music without singing")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--pieces", type=int, default=200, help="of the sound font; a third of them drums alone")
    parser.add_argument("--solos", type=int, default=100, help="of the sound font: one instrument close to a voice")
    parser.add_argument("--loops", type=int, default=100, help="of sampled drums")
    parser.add_argument("--signals", type=int, default=100, help="rings, birds, sirens and noise")
    parser.add_argument("--synthesised", type=int, default=100, help="ring tones, gliding leads, pads with formants, songs of birds")
    parser.add_argument("--modelled", type=int, default=0, help="strings, pipes and horns that are computed")
    parser.add_argument("--excerpts", type=int, default=100, help="of the recordings")
    parser.add_argument("--first", type=int, default=0, help="number of the first of each; others are other sounds")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)

    def numbers(count: int) -> range:
        return range(args.first, args.first + count)

    for number in tqdm(numbers(args.pieces if args.soundfont else 0), desc="pieces"):
        write(args.output / f"piece_{number:04d}.wav", partial(piece, args.soundfont, number % 3 == 0), number)
    for number in tqdm(numbers(args.solos if args.soundfont else 0), desc="solos"):
        write(args.output / f"solo_{number:04d}.wav", partial(solo, args.soundfont), number)
    strokes = kits_of(args.samples) if args.samples else []
    for number in tqdm(numbers(args.loops if strokes else 0), desc="loops"):
        write(args.output / f"loop_{number:04d}.wav", partial(drum_loop, strokes), number)
    for number in tqdm(numbers(args.signals), desc="signals"):
        kind = (rings, birds, siren, bells, bursts)[number % 5]
        write(args.output / f"{kind.__name__}_{number:04d}.wav", kind, number)
    for number in tqdm(numbers(args.synthesised), desc="synthesised"):
        kind = (ring_tone, lead, pad, bird_song)[number % 4]
        write(args.output / f"{kind.__name__}_{number:04d}.wav", kind, number)
    for number in tqdm(numbers(args.modelled), desc="modelled"):
        write(args.output / f"modelled_{number:04d}.wav", modelled, number)
    recordings = sound_files(args.recordings) if args.recordings else []
    for number in tqdm(numbers(args.excerpts if recordings else 0), desc="excerpts"):
        write(args.output / f"excerpt_{number:04d}.wav", partial(excerpt, recordings[number // EXCERPTS % len(recordings)]), number)


def write(path: Path, make: Callable[[np.random.Generator], np.ndarray], seed: int) -> None:
    if not path.exists():
        sound = make(np.random.default_rng(seed))[:RATE * SECONDS]
        wavfile.write(path, RATE, np.int16(0.7 * 32767 * sound / max(1e-6, np.abs(sound).max())))


def piece(soundfont: Path, drums_alone: bool, rng: np.random.Generator) -> np.ndarray:
    return render(compose(rng, drums_alone), soundfont)


def solo(soundfont: Path, rng: np.random.Generator) -> np.ndarray:
    """A tune of one instrument close to a voice, legato or not, in any register."""
    piece = mido.MidiFile(ticks_per_beat=480)
    piece.tracks.append(mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(rng.uniform(60, 180)))]))
    scale = np.array(SCALES[rng.integers(len(SCALES))])
    piece.tracks.append(tune(rng, 0, int(rng.integers(45, 75)), scale, shortest=float(rng.choice((0.25, 0.5))), programs=VOICE_LIKE))
    return render(piece, soundfont)


def compose(rng: np.random.Generator, drums_alone: bool) -> mido.MidiFile:
    """A tune, its chords and drums, each there by chance, of random instruments, scale and speed."""
    piece = mido.MidiFile(ticks_per_beat=480)
    tempo = mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(rng.uniform(60, 180)))
    piece.tracks.append(mido.MidiTrack([tempo]))
    scale, root = np.array(SCALES[rng.integers(len(SCALES))]), int(rng.integers(40, 62))
    if not drums_alone:
        piece.tracks.append(tune(rng, 0, root + 12, scale))
        if rng.random() < 0.6:
            piece.tracks.append(tune(rng, 1, root, scale, together=int(rng.integers(2, 5)), shortest=1.0))
    if drums_alone or rng.random() < 0.5:
        piece.tracks.append(beat(rng))
    return piece


def tune(rng: np.random.Generator, channel: int, root: int, scale: np.ndarray, together: int = 1, shortest: float = 0.25,
         programs: list[int] = PROGRAMS) -> mido.MidiTrack:
    """Notes one after the other, `together` at a time, of at least so many beats, with rests and bends."""
    track = mido.MidiTrack([mido.Message("program_change", channel=channel, program=int(rng.choice(programs)))])
    place, bends, beats, rest = int(rng.integers(len(scale))), rng.random() < 0.3, 0.0, 0
    while beats < 64:
        length = shortest * 2 ** int(rng.integers(0, 3))
        place = int(np.clip(place + rng.integers(-2, 3), -len(scale), 2 * len(scale)))
        notes = [int(np.clip(root + 12 * ((place + 2 * k) // len(scale)) + scale[(place + 2 * k) % len(scale)], 24, 100))
                 for k in range(together)]
        loud = int(rng.integers(50, 120))
        for index, note in enumerate(notes):
            track.append(mido.Message("note_on", channel=channel, note=note, velocity=loud, time=rest if index == 0 else 0))
        ticks, steps = int(480 * length * rng.uniform(0.5, 1)), 8 if bends else 1
        for step in range(steps):
            bend = int(2000 * np.sin(2 * np.pi * step / steps)) if bends else 0
            track.append(mido.Message("pitchwheel", channel=channel, pitch=bend, time=ticks // steps))
        track += [mido.Message("note_off", channel=channel, note=note) for note in notes]
        rest = max(0, int(480 * length) - ticks) + (int(480 * length) if rng.random() < 0.1 else 0)
        beats += length + rest / 480
    return track


def beat(rng: np.random.Generator) -> mido.MidiTrack:
    """A pattern of two bars, now and then broken."""
    track = mido.MidiTrack([mido.Message("program_change", channel=DRUM_CHANNEL, program=int(rng.choice(DRUM_KITS)))])
    drums = rng.choice(np.arange(35, 82), size=int(rng.integers(2, 6)), replace=False)
    pattern = rng.random((32, len(drums))) < rng.uniform(0.05, 0.5, len(drums))
    waited = 0
    for step in range(32 * 8):
        struck = pattern[step % 32] if rng.random() < 0.9 else rng.random(len(drums)) < 0.4
        for drum in drums[struck]:
            track.append(mido.Message("note_on", channel=DRUM_CHANNEL, note=int(drum), velocity=int(rng.integers(40, 127)), time=waited))
            waited = 0
        waited += 120
    return track


def render(piece: mido.MidiFile, soundfont: Path) -> np.ndarray:
    with TemporaryDirectory() as folder:
        score, sound = Path(folder) / "piece.mid", Path(folder) / "piece.wav"
        piece.save(score)
        command = ["fluidsynth", "-o", "synth.dynamic-sample-loading=1", "-ni", "-F", sound, "-r", str(RATE), "-g", "0.5", soundfont, score]
        if soundfont.suffix == ".cfg":
            command = ["timidity", "-c", soundfont, "-Ow", "-s", str(RATE), "-o", sound, score]
        subprocess.run(command, check=True, capture_output=True)
        return load_audio(sound).samples


def modelled(rng: np.random.Generator) -> np.ndarray:
    """Tunes of one to three computed instruments, whose breath, bow, lips and vibrato change while they play."""
    count = int(rng.choice((1, 1, 2, 3)))
    return np.sum([rng.uniform(0.3, 1) * modelled_tune(str(rng.choice(MODELS)), rng) for _ in range(count)], axis=0)


def modelled_tune(model: str, rng: np.random.Generator) -> np.ndarray:
    scale, root, step = np.array(SCALES[rng.integers(len(SCALES))]), int(rng.integers(40, 76)), rng.uniform(0.15, 0.9)
    score, held, bends = [f"ControlChange 0 1 {number} {rng.integers(128)}" for number in (1, 2, 4, 11)], 0.0, rng.random() < 0.4
    while held < SECONDS:
        note = root + int(rng.choice(scale)) + 12 * int(rng.random() < 0.2)
        length, rest = step * 2 ** int(rng.integers(0, 3)), step * (rng.random() < 0.2)
        score.append(f"NoteOn {rest:.3f} 1 {note} {rng.integers(50, 127)}")
        for turn in range(4):
            change = f"PitchBend {length / 4:.3f} 1 {64 + 40 * np.sin(np.pi * turn / 2):.1f}"
            score.append(change if bends else f"ControlChange {length / 4:.3f} 1 {rng.choice((1, 2, 4, 11, 128))} {rng.integers(128)}")
        score.append(f"NoteOff 0 1 {note} 64")
        held += length + rest
    with TemporaryDirectory() as folder:
        written, sound = Path(folder) / "score.ski", Path(folder) / "sound.wav"
        written.write_text("\n".join(score) + "\n")
        subprocess.run(["stk-demo", model, "-ow", sound, "-s", str(RATE), "-if", written], check=True, capture_output=True)
        tune = np.pad(load_audio(sound).samples, (0, RATE * SECONDS))[:RATE * SECONDS]
    return tune / max(1e-6, np.abs(tune).max())


def excerpt(recording: Path, rng: np.random.Generator) -> np.ndarray:
    """Some part of a recording."""
    samples = recorded(recording)
    start = int(rng.integers(max(1, len(samples) - RATE * SECONDS)))
    return np.resize(samples[start:start + RATE * SECONDS], RATE * SECONDS)


@lru_cache(maxsize=1)
def recorded(path: Path) -> np.ndarray:
    return load_audio(path).samples


def sound_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".flac", ".wav", ".ogg", ".aiff", ".mp3"))


def kits_of(folder: Path) -> list[list[Path]]:
    """Files of single strokes, by the folder they are in."""
    kits: dict[Path, list[Path]] = {}
    for file in sound_files(folder):
        kits.setdefault(file.parent, []).append(file)
    return [kit for kit in kits.values() if len(kit) > 3]


def drum_loop(kits: list[list[Path]], rng: np.random.Generator) -> np.ndarray:
    kit = kits[rng.integers(len(kits))]
    strokes = [read_stroke(kit[index]) for index in rng.choice(len(kit), size=min(len(kit), int(rng.integers(2, 7))), replace=False)]
    sound, step = np.zeros(RATE * SECONDS, np.float32), RATE * 60 / rng.uniform(60, 180) / 4
    pattern = rng.random((32, len(strokes))) < rng.uniform(0.05, 0.5, len(strokes))
    for index, start in enumerate(np.arange(0, len(sound), step).astype(int)):
        for stroke in np.flatnonzero(pattern[index % 32]):
            piece = strokes[stroke][:len(sound) - start]
            sound[start:start + len(piece)] += rng.uniform(0.3, 1) * piece
    return sound


def read_stroke(path: Path) -> np.ndarray:
    try:
        return load_audio(path).samples
    except InvalidAudioError:  # too short to be a recording
        return np.zeros(1, np.float32)


def rings(rng: np.random.Generator) -> np.ndarray:
    """Two tones or a warble, on and off."""
    time = np.arange(RATE * SECONDS) / RATE
    low, ratio, on = rng.uniform(300, 1500), rng.uniform(1.05, 1.5), rng.uniform(0.2, 2)
    if rng.random() < 0.5:
        tone = np.sin(2 * np.pi * low * time) + np.sin(2 * np.pi * low * ratio * time)
    else:
        tone = np.sin(2 * np.pi * low * np.where(time * rng.uniform(8, 30) % 1 < 0.5, 1, ratio) * time)
    return tone * (time % (on * rng.uniform(1.2, 3)) < on)


def birds(rng: np.random.Generator) -> np.ndarray:
    """Chirps whose pitch wanders."""
    sound = np.zeros(RATE * SECONDS)
    start = 0
    while start < len(sound) - RATE:
        time = np.arange(int(RATE * rng.uniform(0.05, 0.5))) / RATE
        pitch = rng.uniform(1500, 5000) + rng.uniform(0, 1200) * np.sin(2 * np.pi * rng.uniform(2, 30) * time + rng.uniform(0, 6))
        sound[start:start + len(time)] += np.sin(2 * np.pi * np.cumsum(pitch) / RATE) * np.hanning(len(time))
        start += len(time) + int(RATE * rng.exponential(0.2))
    return sound


def siren(rng: np.random.Generator) -> np.ndarray:
    """A tone with partials that rises and falls."""
    time = np.arange(RATE * SECONDS) / RATE
    pitch = rng.uniform(400, 900) * (1 + rng.uniform(0.1, 0.5) * np.sin(2 * np.pi * rng.uniform(0.1, 4) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    return sum(np.sin(k * phase) / k ** rng.uniform(0.5, 2) for k in range(1, int(rng.integers(2, 8))))


def bells(rng: np.random.Generator) -> np.ndarray:
    """Strokes with partials that do not harmonise."""
    sound = np.zeros(RATE * SECONDS)
    ratios = np.sort(rng.uniform(1, 8, 6))
    for start in np.arange(0, len(sound), RATE * rng.uniform(0.15, 1.5)).astype(int):
        time, base = np.arange(min(2 * RATE, len(sound) - start)) / RATE, rng.uniform(200, 1200)
        sound[start:start + len(time)] += sum(np.sin(2 * np.pi * base * r * time) * np.exp(-time * r / rng.uniform(0.2, 2)) for r in ratios)
    return sound


def bursts(rng: np.random.Generator) -> np.ndarray:
    """Noise that swells, knocks, claps and rustles."""
    time = np.arange(RATE * SECONDS) / RATE
    noise = coloured_noise(len(time) - 1, rng.uniform(0, 2.5), rng)
    noise = np.append(noise, noise[-1])
    if rng.random() < 0.6:
        return noise * np.exp(-(time % rng.uniform(0.1, 2)) / rng.uniform(0.01, 0.5))
    return noise * (1 + np.sin(rng.uniform(0.5, 20) * time))


def ring_tone(rng: np.random.Generator) -> np.ndarray:
    """A phone's tune, repeated after a rest, of a wave form of old synthesisers or a struck bar."""
    wave, step, scale = rng.integers(4), rng.uniform(0.06, 0.3), SCALES[rng.integers(len(SCALES))]
    pitches = rng.uniform(350, 1200) * 2 ** (rng.choice(scale, size=int(rng.integers(3, 16))) / 12)
    index, decay, held = rng.uniform(0.5, 5), rng.uniform(0.05, 1), rng.uniform(0.4, 1)

    def note(hertz: float) -> np.ndarray:
        time = np.arange(int(RATE * step)) / RATE
        phase = 2 * np.pi * hertz * time
        tone = (np.sign(np.sin(phase)), np.sin(phase + index * np.sin(rng.integers(1, 5) * phase)),
                sum(np.sin(k * phase) / k for k in range(1, 6)), np.sin(phase) + 0.5 * np.sin(3.9 * phase) * np.exp(-time / 0.03))[wave]
        edge = np.minimum(1, np.minimum(time, np.maximum(held * step - time, 0)) / 0.003)
        return tone * np.exp(-time / decay) * edge

    melody = np.concatenate([note(pitch) for pitch in pitches] * int(rng.integers(1, 4)))
    return np.resize(np.append(melody, np.zeros(int(RATE * rng.uniform(0, 2)))), RATE * SECONDS)


def lead(rng: np.random.Generator) -> np.ndarray:
    """One gliding tone with vibrato: a theremin, a whistle, a saw, a bowed string that nobody plays well."""
    count = int(SECONDS / rng.uniform(0.15, 1.2))
    scale = np.array(SCALES[rng.integers(len(SCALES))])
    notes = rng.uniform(40, 84) + scale[rng.integers(len(scale), size=count)] + 12 * (rng.random(count) < 0.2)
    time, glide = np.arange(RATE * SECONDS) / RATE, int(RATE * rng.uniform(0.01, 0.3))
    path = np.repeat(notes, -(-len(time) // count))[:len(time)]
    path = np.convolve(np.pad(path, (glide, glide), mode="edge"), np.full(2 * glide + 1, 1 / (2 * glide + 1)), "valid")
    path += rng.uniform(0, 0.8) * np.sin(2 * np.pi * rng.uniform(3, 8) * time)
    phase = 2 * np.pi * np.cumsum(440 * 2 ** ((path - 69) / 12)) / RATE
    tone = partials(phase, path, rng.uniform(0.6, 3), int(rng.integers(1, 16)))
    if rng.random() < 0.5:
        tone *= np.repeat(rng.random(count) < 0.8, -(-len(time) // count))[:len(time)]
    return tone * (1 + rng.uniform(0, 0.9) * np.sin(2 * np.pi * rng.uniform(0.2, 7) * time))


def pad(rng: np.random.Generator) -> np.ndarray:
    """Held chords through resonances that stay, wander or follow the beat, as those of a vocoder or a wah pedal."""
    time, sound = np.arange(RATE * SECONDS) / RATE, np.zeros(RATE * SECONDS)
    beat = rng.uniform(0.2, 2)
    roots = rng.uniform(40, 60) + rng.choice(SCALES[0], size=int(SECONDS / beat) + 1)
    path = roots[(time / beat).astype(int)]
    for interval in rng.choice((0, 3, 4, 7, 10, 12), size=int(rng.integers(1, 4)), replace=False):
        detuned = path + interval + rng.uniform(-0.1, 0.1)
        sound += partials(2 * np.pi * np.cumsum(440 * 2 ** ((detuned - 69) / 12)) / RATE, detuned, 1.0, 24)
    size = 1024
    centres = rng.uniform(250, 3000, int(rng.integers(1, 4)))
    depth, speed, width = rng.uniform(0, 0.6), rng.uniform(0.1, 6), rng.uniform(60, 300)
    frequency, window = np.fft.rfftfreq(size, 1 / RATE), np.hanning(size + 1)[:-1]
    filtered = np.zeros(len(sound) + size)
    for start in range(0, len(sound) - size, size // 2):
        moved = centres * (1 + depth * np.sin(2 * np.pi * speed * start / RATE + np.arange(len(centres))))
        spectrum = np.fft.rfft(sound[start:start + size] * window)
        response = sum(1 / (1 + ((frequency - centre) / width) ** 2) for centre in moved)
        filtered[start:start + size] += np.fft.irfft(spectrum * response)
    return filtered * (1 if rng.random() < 0.6 else np.exp(-(np.arange(len(filtered)) / RATE % beat) / beat / rng.uniform(0.2, 1)))


def partials(phase: np.ndarray, pitch: np.ndarray, falling: float, count: int) -> np.ndarray:
    """Harmonics [N] of a phase, below 7 kHz, that fall by their number to the power of `falling`; pitch in semitones of MIDI."""
    hertz = 440 * 2 ** ((pitch - 69) / 12)
    return sum(np.sin(k * phase) * (k * hertz < 7000) / k**falling for k in range(1, count + 1))


def bird_song(rng: np.random.Generator) -> np.ndarray:
    """Phrases of sweeps, trills and calls with harmonics, said again and again, perhaps by two birds."""
    sound = np.zeros(RATE * SECONDS)
    for _ in range(int(rng.integers(1, 4))):
        phrase, low = [], rng.uniform(700, 4500)
        for _ in range(int(rng.integers(1, 7))):
            time = np.arange(int(RATE * rng.uniform(0.02, 0.4))) / RATE
            sweep = np.linspace(0, rng.uniform(-0.5, 0.5), len(time)) + rng.uniform(0, 0.2) * np.sin(2 * np.pi * rng.uniform(5, 60) * time)
            phase = 2 * np.pi * np.cumsum(low * rng.uniform(0.8, 1.6) * 2 ** sweep) / RATE
            call = sum(np.sin(k * phase) * rng.uniform(0, 1) ** k for k in range(1, 5)) * np.hanning(len(time)) ** rng.uniform(0.3, 1)
            phrase += [call] * int(rng.choice((1, 1, 1, 4, 8))) + [np.zeros(int(RATE * rng.uniform(0.01, 0.2)))]
        phrase.append(np.zeros(int(RATE * rng.exponential(1.0))))
        sound += rng.uniform(0.1, 1) * np.resize(np.concatenate(phrase), len(sound))
    return sound + rng.uniform(0, 0.03) * np.append(coloured_noise(len(sound) - 1, 1.0, rng), 0)


if __name__ == "__main__":
    main()
