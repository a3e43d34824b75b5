"""From a waveform to the features that many sound models take: short-time Fourier transform, mel bands, logarithm.

    spectrogram = { window = 400, hop = 160, bands = 40, low = 20, high = 7600, power = 2, log = "natural" }

    S[t, f] = |Σ_n w[n] x[t·hop + n] exp(−2πi f n / fft)|^power,    mel: S · M,    log: ln(S + floor)

w is the periodic Hann window; M has triangles of height 1 between band centres that are evenly spaced on the mel scale
m = 2595 log10(1 + f/700) (O'Shaughnessy 1987; HTK). Frames lie wholly inside the recording.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.errors import InputError

Values = NDArray[np.float64]

LOGARITHMS: dict[str, Callable[[Values], Values]] = {
    "none": lambda strength: strength,
    "natural": lambda strength: np.log(strength),
    "decimal": lambda strength: np.log10(strength),
    "decibel": lambda strength: 10 * np.log10(strength),
}


@dataclass(frozen=True)
class Spectrogram:
    """How a waveform becomes features.

    window, hop : in samples        fft : length of the transform, 0 = window        power : 1 magnitudes, 2 energies
    bands       : of the mel scale between `low` and `high` Hz; 0 = all frequencies as they are, high 0 = half the rate
    log, floor  : logarithm, and what is added below it
    """

    window: int = 400
    hop: int = 160
    fft: int = 0
    power: float = 2.0
    bands: int = 0
    low: float = 0.0
    high: float = 0.0
    log: str = "natural"
    floor: float = 1e-6

    @classmethod
    def of(cls, said: Mapping[str, Any], where: str) -> Spectrogram:
        """Errors: InputError for unknown keys and values that make no sense."""
        known = {field.name: field.default for field in fields(cls)}
        for key, value in said.items():
            if key not in known:
                raise InputError(f"{where}: spectrogram has no key '{key}'; it has {', '.join(known)}.")
            wanted = (int, float) if isinstance(known[key], float) else type(known[key])
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise InputError(f"{where}: spectrogram.{key} = {value!r} does not fit; the default is {known[key]!r}.")
        made = cls(**said)
        if made.log not in LOGARITHMS:
            raise InputError(
                f"{where}: spectrogram.log = {made.log!r} does not fit. There are {', '.join(LOGARITHMS)}."
            )
        if made.window < 1 or made.hop < 1 or made.fft < 0 or made.bands < 0 or made.floor < 0:
            raise InputError(f"{where}: spectrogram: window and hop are 1 at least, fft, bands and floor not negative.")
        return made


def spectrogram(waveform: NDArray[np.float64], rate: float, said: Mapping[str, Any], where: str) -> NDArray[np.float64]:
    """(frame, frequency or band).  Errors: InputError for a recording shorter than one window."""
    made = Spectrogram.of(said, where)
    if len(waveform) < made.window:
        raise InputError(f"{where}: one window takes {made.window} samples, and the recording has {len(waveform)}.")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(made.window) / made.window)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, made.window)[:: made.hop] * hann
    size = made.fft or made.window
    strength = np.abs(np.fft.rfft(frames, size, axis=1)) ** made.power
    if made.bands:
        strength = strength @ mel_bands(size, rate, made)
    return np.asarray(LOGARITHMS[made.log](strength + (made.floor if made.log != "none" else 0.0)))


def mel_bands(size: int, rate: float, made: Spectrogram) -> NDArray[np.float64]:
    """(frequency, band) triangles."""
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    edges = np.linspace(_mel(made.low), _mel(made.high or rate / 2), made.bands + 2)
    hertz = 700 * (10 ** (edges / 2595) - 1)
    rise = (frequencies[:, None] - hertz[:-2]) / (hertz[1:-1] - hertz[:-2])
    fall = (hertz[2:] - frequencies[:, None]) / (hertz[2:] - hertz[1:-1])
    return np.clip(np.minimum(rise, fall), 0, None)


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))
