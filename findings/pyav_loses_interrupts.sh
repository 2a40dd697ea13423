#!/usr/bin/env bash
# PyAV and Ctrl-C: an exception that a signal handler raises amid PyAV's work may be lost, silently or with a printed line, or come
# out as an error of the file.
#
# Seen with av 18.0.0 (Linux x86-64 wheel, Python 3.11).  A file object's `read` and `seek` that raise KeyboardInterrupt, as Python does
# when Ctrl-C came while FFmpeg decoded: "Exception ignored in ..." on stderr, no exception for the caller, who goes on; one call makes the
# file invalid, another its sound undecodable, the others do nothing.  AudioResampler.resample: of signals at random moments of the call, a
# tenth to a fifth are lost without a word.  A program that should end on Ctrl-C or SIGTERM has to hold such signals while PyAV works.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "av==18.0.0" "numpy<2.5" 2> /dev/null
cat > "$work/lost.py" <<'P'
import io, random, signal, wave
import av, numpy as np

print("av", av.__version__)
recording = io.BytesIO()
with wave.open(recording, "wb") as output:
    output.setparams((1, 2, 16000, 0, "NONE", ""))
    output.writeframes(np.zeros(10 * 16000, np.int16).tobytes())


class Reader(io.BytesIO):
    calls, interrupted = 0, 0

    def count(self):
        self.calls += 1
        if self.calls == self.interrupted:
            signal.raise_signal(signal.SIGINT)

    def read(self, size=-1):
        self.count()
        return super().read(size)

    def seek(self, place, whence=0):
        self.count()
        return super().seek(place, whence)


def decode(interrupted):
    """What becomes of a reading whose n-th call is interrupted, and how many calls there were."""
    reader = Reader(recording.getvalue())
    reader.interrupted = interrupted
    try:
        with av.open(reader) as container:
            samples = sum(frame.samples for frame in container.decode(audio=0))
    except KeyboardInterrupt:
        return "ended", reader.calls
    except av.error.FFmpegError as error:
        return type(error).__name__, reader.calls
    return ("sound whole" if samples == 160000 else "sound shortened"), reader.calls


calls = decode(0)[1]
print("outcomes:", ", ".join(sorted({decode(number)[0] for number in range(1, calls)})))


def alarm(*_):
    global came
    came += 1
    raise KeyboardInterrupt


def frame():
    made = av.AudioFrame.from_ndarray(np.zeros((1, 640), np.float32), format="fltp", layout="mono")
    made.sample_rate = 48000
    return made


signal.signal(signal.SIGALRM, alarm)
random.seed(0)
came = raised = 0
resampler = None
for _ in range(4000):
    if resampler is None:
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=16000)
        resampler.resample(frame())
    given = frame()
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-6, 40e-6))
            resampler.resample(given)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        raised += 1
        resampler = None
print("resampler loses more than 1 in 50 interrupts:", came - raised > came / 50)
P
"$work/venv/bin/python" "$work/lost.py" 2> /dev/null | tee "$work/seen"
diff "$work/seen" - <<'T'
av 18.0.0
outcomes: ArgumentError, InvalidDataError, sound whole
resampler loses more than 1 in 50 interrupts: True
T
echo "as described"
