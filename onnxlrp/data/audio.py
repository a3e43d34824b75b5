"""Recordings: WAV by the standard library, other formats by soundfile or PyAV where they are installed."""

from __future__ import annotations

import importlib
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlrp.data.sample import Input, Sample, fit, loader
from onnxlrp.data.series import axis_of, laid_out, normalised, series_layout
from onnxlrp.data.sidecar import Sidecar
from onnxlrp.data.spectrogram import spectrogram
from onnxlrp.errors import InputError

Waveform = NDArray[np.float64]


@dataclass(frozen=True)
class Sound:
    """What was heard: a waveform of one channel, −1…1, at its sampling rate in Hz; None = nobody said."""

    waveform: Waveform
    rate: float | None

    @property
    def seconds(self) -> float:
        return len(self.waveform) / (self.rate or 1.0)


@loader("audio", suffixes=(".wav", ".flac", ".ogg", ".mp3", ".m4a", ".aiff"))
def load_audio(path: Path, sidecar: Sidecar, inputs: Sequence[Input]) -> Sample:
    """One recording: channels averaged, brought to the sidecar's `rate`, as waveform or as its `spectrogram`.

    A model of fixed length gets the beginning, or silence behind the end; both are said. Inputs called after the
    sampling rate get it, states get zeros.
    Errors: InputError for what is no recording.
    """
    heard = read_sound(path)
    warnings = []
    if sidecar.rate is None:
        warnings.append(f"The sidecar says no `rate`: recordings are fed at their own, here {heard.rate:g} Hz.")
    elif heard.rate != sidecar.rate:
        warnings.append(f"Resampled from {heard.rate:g} to {sidecar.rate:g} Hz.")
        heard = resampled(heard, sidecar.rate)
    entry = _sound_input(inputs, path)
    values = heard.waveform[:, None]
    if sidecar.spectrogram is not None:
        values = spectrogram(heard.waveform, heard.rate or 1.0, sidecar.spectrogram, sidecar.where)
    fitted, said = _fitted(normalised(values, sidecar), entry, sidecar)
    array = laid_out(fitted, sidecar.layout, entry.shape, path).astype(np.float32)
    arrays = {entry.name: fit(array, entry, sidecar, path)}
    arrays |= {other.name: _beside(other, heard, path) for other in inputs if other.name != entry.name}
    return Sample(path.stem, arrays, original=heard, warnings=(*warnings, *said))


def read_sound(path: Path) -> Sound:
    """Read a recording, channels averaged.  Errors: InputError where no reader takes it, with what each one said."""
    readers: tuple[Callable[[Path], Sound], ...] = (_by_wave, _by_soundfile, _by_pyav)
    refused, missing = list[str](), list[str]()
    for reader in readers:
        try:
            heard = reader(path)
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file. Check the path.") from error
        except ImportError as error:
            missing.append(error.name or "a package")
            continue
        except EOFError:
            refused.append("it ends before the heading of a WAV file does")
            continue
        except Exception as error:  # each library has its own tree of errors, without a common root
            refused.append(getattr(error, "strerror", None) or str(error) or type(error).__name__)
            continue
        if not heard.waveform.size:
            raise InputError(f"{path}: the recording is empty.")
        return heard
    others = f", or install {' and '.join(missing)} for other formats" if missing else ""
    raise InputError(f"{path}: not a recording that can be read ({'; '.join(refused)}). Give a WAV file{others}.")


def resampled(sound: Sound, rate: float) -> Sound:
    """Band-limited to the lower of both rates, by the discrete Fourier transform of the whole recording."""
    if sound.rate is None or sound.rate == rate:
        return Sound(sound.waveform, rate)
    before = len(sound.waveform)
    after = max(1, round(before * rate / sound.rate))
    spectrum = np.fft.rfft(sound.waveform)
    kept = np.zeros(after // 2 + 1, np.complex128)
    shared = min(len(spectrum), len(kept))
    kept[:shared] = spectrum[:shared]
    return Sound(np.asarray(np.fft.irfft(kept, after) * (after / before)), rate)


def _by_wave(path: Path) -> Sound:
    with wave.open(str(path), "rb") as file:
        width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
        content = file.readframes(file.getnframes())
    if width == 3:  # 24 bits have no type of their own: the upper three bytes of 32
        bytes_of = np.frombuffer(content, np.uint8).reshape(-1, 3)
        numbers = np.concatenate([np.zeros((len(bytes_of), 1), np.uint8), bytes_of], axis=1).view("<i4").ravel()
    else:
        numbers = np.frombuffer(content, {1: "u1", 2: "<i2", 4: "<i4"}[width])
    middle, largest = (128.0, 128.0) if width == 1 else (0.0, 2.0 ** (8 * numbers.itemsize - 1))
    values = (numbers.astype(np.float64) - middle) / largest
    return Sound(values.reshape(-1, channels).mean(axis=1), float(rate))


def _by_soundfile(path: Path) -> Sound:
    values, rate = importlib.import_module("soundfile").read(str(path), always_2d=True, dtype="float64")
    return Sound(np.asarray(values).mean(axis=1), float(rate))


def _by_pyav(path: Path) -> Sound:
    av: Any = importlib.import_module("av")
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        planar = av.AudioResampler(format="dblp", layout="mono", rate=stream.rate)
        frames = [made for frame in [*container.decode(stream), None] for made in planar.resample(frame)]
        pieces = [np.asarray(frame.to_ndarray(), np.float64).ravel() for frame in frames]
        return Sound(np.concatenate(pieces) if pieces else np.zeros(0), float(stream.rate))


def _sound_input(inputs: Sequence[Input], path: Path) -> Input:
    """The input that takes the recording: the first float one that is no state."""
    floats = [entry for entry in inputs if np.dtype(entry.dtype).kind == "f" and not _is_state(entry.name)]
    if not floats:
        names = ", ".join(f"'{entry.name}'" for entry in inputs)
        raise InputError(f"{path}: none of the model's inputs ({names}) takes a recording. Give an .npz file.")
    return floats[0]


def _is_state(name: str) -> bool:
    return any(word in name.lower() for word in ("state", "cache", "hidden", "memory")) or name in (
        "h",
        "c",
        "h0",
        "c0",
    )


def _beside(entry: Input, heard: Sound, path: Path) -> NDArray[Any]:
    """What the other inputs of a model for sound get: the sampling rate, or a state of zeros."""
    name, dtype = entry.name.lower(), np.dtype(entry.dtype)
    if name in ("sr", "rate", "sample_rate", "sampling_rate") and heard.rate is not None:
        return np.full([d if isinstance(d, int) else 1 for d in entry.shape], heard.rate).astype(dtype)
    if _is_state(name) or dtype.kind == "f":
        return np.zeros([d if isinstance(d, int) else 1 for d in entry.shape], dtype)
    raise InputError(f"{path}: one recording cannot feed the input '{entry.name}'. Give an .npz file.")


def _fitted(values: Waveform, entry: Input, sidecar: Sidecar) -> tuple[Waveform, tuple[str, ...]]:
    """Cut or filled up to the length that the model fixes, and what to say of it."""
    letters = series_layout(sidecar.layout, len(entry.shape))
    length = entry.shape[axis_of(letters, "LTW") or 0] if entry.shape else None
    if not isinstance(length, int) or length == len(values):
        return values, ()
    what = "samples" if sidecar.spectrogram is None else "frames"
    if len(values) > length:
        return values[:length], (f"Longer than the model's input: {length} of {len(values)} {what} were read.",)
    missing = np.repeat(values.min(axis=0, keepdims=True) * (what == "frames"), length - len(values), axis=0)
    said = f"Shorter than the model's input: {len(values)} {what}, filled up with silence to {length}."
    return np.concatenate([values, missing]), (said,)
