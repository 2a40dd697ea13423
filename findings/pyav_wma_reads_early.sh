#!/usr/bin/env bash
# PyAV and Windows Media Audio: what FFmpeg wrote, FFmpeg reads a frame early, though its time stamps begin at 0.
#
# Seen with av 18.0.0 (libavcodec 62.28, Linux x86-64 wheel): a chirp encoded as wmav1 or wmav2 comes back with its first frame
# missing: everything is 512 samples early at 16 kHz (32 ms) and 2048 at 44.1 kHz (46 ms); AC-3 comes back 256 samples late (6 ms), AAC,
# MP3, Opus and FLAC in their place.  Whoever compares a .wma with the recording it was made of, or aligns lips to it, sees the shift.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "av==18.0.0" "numpy<2.5" 2> /dev/null
cat > "$work/shift.py" <<'P'
import io, av, numpy as np
print("av", av.__version__)
for codec, container, rate in (("wmav2", "asf", 16000), ("wmav1", "asf", 16000), ("wmav2", "asf", 44100), ("ac3", "ac3", 44100), ("aac", "mp4", 44100),
                               ("libmp3lame", "mp3", 44100), ("flac", "flac", 44100)):
    time = np.arange(2 * rate) / rate
    sound = (0.3 * np.sin(2 * np.pi * np.cumsum(200 + 800 * time) / rate) * (time > 0.25)).astype(np.float32)
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
        frame.sample_rate, frame.pts = rate, 0
        stream.codec_context.open()
        fit = av.AudioResampler(stream.codec_context.format.name, "mono", rate, stream.codec_context.frame_size)
        for part in [*fit.resample(frame), *fit.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as source:
        to_float = av.AudioResampler("fltp", "mono", rate)
        frames = list(source.decode(audio=0))
        read = np.concatenate([part.to_ndarray()[0] for each in frames for part in to_float.resample(each)])
    size = 2 * max(len(sound), len(read))
    match = np.fft.irfft(np.fft.rfft(read, size) * np.conj(np.fft.rfft(sound, size)), size).argmax()
    print(codec, rate, "shift", int(match if match < size // 2 else match - size))
P
"$work/venv/bin/python" "$work/shift.py" 2> /dev/null | tee "$work/seen"
diff "$work/seen" - <<'T'
av 18.0.0
wmav2 16000 shift -512
wmav1 16000 shift -512
wmav2 44100 shift -2048
ac3 44100 shift 256
aac 44100 shift 0
libmp3lame 44100 shift 0
flac 44100 shift 0
T
echo "as described"
