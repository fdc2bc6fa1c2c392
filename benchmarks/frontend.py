# SPDX-License-Identifier: Apache-2.0
"""Speed of log-mel spectrograms on one core: ours, kaldi-native-fbank's and librosa's.

  .venv/bin/python benchmarks/frontend.py

All compute the same utterances of 30 s with 80 bins, in alternating rounds. A
spectrogram that differs from the reference's is an error. The last line is JSON; a
ratio above 1 means that ours is faster.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

# One core; set before the numeric libraries count the cores.
if __name__ == '__main__':
  os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
  for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
    os.environ[name] = '1'

import kaldi_native_fbank
import librosa
import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from benchmarks.machine import print_result
from data_pipeline import features

_ROUNDS = flags.DEFINE_integer('rounds', 15, 'measured rounds', lower_bound=1)
_CLIPS = flags.DEFINE_integer('clips', 4, 'utterances of a round', lower_bound=1)

SECONDS, BINS = 30, 80
MAX_DIFFERENCE = 1e-3  # more is not a rounding error, but another definition

Calls = dict[str, Callable[[], np.ndarray]]


def speech_like(utterances: int, seconds: float) -> np.ndarray:
  """Return noise with less power at high frequencies, modulated at a syllable rate."""
  rng = np.random.default_rng(0)
  samples = int(seconds * features.SAMPLE_RATE)
  spectrum = np.fft.rfft(rng.normal(size=(utterances, samples)))
  hertz = np.fft.rfftfreq(samples, 1 / features.SAMPLE_RATE)
  noise = np.fft.irfft(spectrum / (1 + hertz / 500), samples)
  syllables = 1.1 + np.sin(2 * np.pi * 4 * np.arange(samples) / features.SAMPLE_RATE)
  return (0.1 * noise / noise.std() * syllables).astype(np.float32)


def kaldi_native(audio: list[float]) -> np.ndarray:
  """Compute Kaldi's log-mel by its own code; defaults except for dither and bins."""
  options = kaldi_native_fbank.FbankOptions()
  options.frame_opts.dither = 0
  options.mel_opts.num_bins = BINS
  fbank = kaldi_native_fbank.OnlineFbank(options)
  fbank.accept_waveform(features.SAMPLE_RATE, audio)
  fbank.input_finished()
  return np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


def librosa_whisper(audio: np.ndarray) -> np.ndarray:
  """Compute Whisper's log-mel by librosa."""
  mel = librosa.feature.melspectrogram(
    y=audio,
    sr=features.SAMPLE_RATE,
    n_fft=features.WINDOW,
    hop_length=features.HOP,
    n_mels=BINS,
    pad_mode='reflect',
  )
  log_mel = np.log10(np.maximum(mel[:, :-1].T, 1e-10))
  return (np.maximum(log_mel, log_mel.max() - 8.0) + 4.0) / 4.0


def make_calls(utterances: np.ndarray) -> Calls:
  """Return the calls to time, by name; each computes the log-mel of all utterances."""
  lists = [audio.tolist() for audio in utterances]  # faster than arrays in Kaldi's API
  return {
    'kaldi': lambda: np.stack([features.kaldi_log_mel(x, BINS) for x in utterances]),
    'kaldi_native_fbank': lambda: np.stack([kaldi_native(x) for x in lists]),
    'whisper': lambda: np.stack(
      [features.whisper_log_mel(x, BINS) for x in utterances]
    ),
    'librosa': lambda: np.stack([librosa_whisper(x) for x in utterances]),
  }


def max_differences(calls: Calls) -> dict[str, float]:
  """Return maximum absolute differences; raise ValueError if one is too large."""
  log_mels = {name: call() for name, call in calls.items()}
  pairs = {
    'max_abs_diff': ('kaldi', 'kaldi_native_fbank'),
    'max_abs_diff_librosa': ('whisper', 'librosa'),
  }
  differences = {
    name: float(np.abs(log_mels[ours] - log_mels[reference]).max())
    for name, (ours, reference) in pairs.items()
  }
  if max(differences.values()) > MAX_DIFFERENCE:
    raise ValueError(
      f'spectrograms differ by more than {MAX_DIFFERENCE}: {differences}'
    )
  return differences


def measure(clips: int, seconds: float, rounds: int) -> dict[str, float]:
  """Time alternating rounds; returns ratios of medians and multiples of real time."""
  calls = make_calls(speech_like(clips, seconds))
  differences = max_differences(calls)
  times: dict[str, list[float]] = {name: [] for name in calls}
  for _ in range(rounds):
    for name, call in calls.items():
      start = time.perf_counter()
      call()
      times[name].append(time.perf_counter() - start)
  median = {name: float(np.median(values)) for name, values in times.items()}
  milliseconds = {name: 1e3 * value / clips for name, value in median.items()}
  print({name: f'{value:.2f} ms a clip' for name, value in milliseconds.items()})
  audio_seconds = clips * seconds
  return {
    'ratio_vs_kaldi_native_fbank': median['kaldi_native_fbank'] / median['kaldi'],
    'ratio_vs_librosa': median['librosa'] / median['whisper'],
    'x_real_time': audio_seconds / median['kaldi'],
    'x_real_time_whisper': audio_seconds / median['whisper'],
    **differences,
  }


def main(argv: list[str]) -> None:
  """Print the measurements."""
  del argv
  result = measure(_CLIPS.value, SECONDS, _ROUNDS.value)
  print_result({name: float(f'{value:.4g}') for name, value in result.items()})


if __name__ == '__main__':
  app.run(main)
