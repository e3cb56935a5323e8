"""Sound for Whisper: a WAV file, and how loud each pitch is in it."""

import wave

import numpy as np

__all__ = ["RATE", "SEGMENT", "log_mel", "read_wav"]

# Numbers a second, and in half a minute; in a window of the spectrum, and to the next window.
RATE, SEGMENT, WINDOW, HOP, NUM_MELS = 16_000, 480_000, 400, 160, 80


def read_wav(path):
    """Return the numbers in a WAV file, from -1 to 1."""
    with wave.open(str(path)) as file:
        form = file.getnchannels(), file.getsampwidth(), file.getframerate()
        if form != (1, 2, RATE):
            message = (
                f"{path} must have 1 channel of 2 bytes at {RATE} Hz; got {form}. "
                f"Convert it: sox {path} -c 1 -b 16 -r {RATE} speech.wav"
            )
            raise ValueError(message)
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2") / 2**15


def log_mel(samples):
    """Return how loud each of 80 pitches is, every 10 ms for 30 s: (3000, 80), logarithms."""
    padded = np.zeros(SEGMENT)
    padded[: len(samples)] = samples
    padded = np.pad(padded, WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[:-1:HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW + 1)[:-1])) ** 2
    loudness = np.log10(np.maximum(power @ mel_filters(), 1e-10))
    # 80 dB below the loudest is silence.
    return np.float32((np.maximum(loudness, loudness.max() - 8) + 4) / 4)


def mel_filters():
    """Return the share of each frequency (201) in each pitch (80): triangles, after Slaney."""
    # Even steps of pitch: 15 up to 1000 Hz in hertz, then 27 for each factor of 6.4.
    pitch = np.linspace(0, 15 + 27 * np.log(RATE / 2000) / np.log(6.4), NUM_MELS + 2)
    hertz = np.where(pitch < 15, pitch * 200 / 3, 1000 * 6.4 ** ((pitch - 15) / 27))
    low, centre, high = hertz[:-2], hertz[1:-1], hertz[2:]
    frequency = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    rising, falling = (frequency - low) / (centre - low), (high - frequency) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
