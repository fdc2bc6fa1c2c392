# SPDX-License-Identifier: Apache-2.0
"""Log-mel spectrograms on one core: ours, kaldi-native-fbank's and librosa's, in turns.

  .venv/bin/python benchmarks/frontend.py

The same clips of 30 s and 80 bins. A spectrogram that differs from its rival's is an
error. The last line is JSON; a ratio above 1 means that the host's is faster; `device`
is `acl_jax/models/log_mel.py`, as it runs where JAX runs, compared with the host's.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

# One core, before the numeric libraries count them.
if __name__ == '__main__':
  os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
  for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
    os.environ[name] = '1'

import jax
import kaldi_native_fbank
import librosa
import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from acl_jax.models import log_mel
from data_pipeline import features

_ROUNDS = flags.DEFINE_integer('rounds', 15, 'measured rounds', lower_bound=1)
_CLIPS = flags.DEFINE_integer('clips', 4, 'clips of a round', lower_bound=1)

SECONDS, BINS = 30, 80
CLOSE = 1e-3  # larger is another definition, not another rounding

Calls = dict[str, Callable[[], np.ndarray]]


def speech_like(clips: int, seconds: float) -> np.ndarray:
  """Noise with less power at high frequencies, louder and quieter by syllables."""
  rng = np.random.default_rng(0)
  samples = int(seconds * features.SAMPLE_RATE)
  spectrum = np.fft.rfft(rng.normal(size=(clips, samples)))
  hertz = np.fft.rfftfreq(samples, 1 / features.SAMPLE_RATE)
  noise = np.fft.irfft(spectrum / (1 + hertz / 500), samples)
  syllables = 1.1 + np.sin(2 * np.pi * 4 * np.arange(samples) / features.SAMPLE_RATE)
  return (0.1 * noise / noise.std() * syllables).astype(np.float32)


def kaldi_native(sound: list[float]) -> np.ndarray:
  """Kaldi's own code, with its defaults but for dither and the bins."""
  options = kaldi_native_fbank.FbankOptions()
  options.frame_opts.dither = 0
  options.mel_opts.num_bins = BINS
  fbank = kaldi_native_fbank.OnlineFbank(options)
  fbank.accept_waveform(features.SAMPLE_RATE, sound)
  fbank.input_finished()
  return np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


def librosa_whisper(sound: np.ndarray) -> np.ndarray:
  """Whisper's definition by librosa."""
  mel = librosa.feature.melspectrogram(
    y=sound,
    sr=features.SAMPLE_RATE,
    n_fft=features.WINDOW,
    hop_length=features.HOP,
    n_mels=BINS,
    pad_mode='reflect',
  )
  logarithm = np.log10(np.maximum(mel[:, :-1].T, 1e-10))
  return (np.maximum(logarithm, logarithm.max() - 8.0) + 4.0) / 4.0


def calls(sounds: np.ndarray) -> Calls:
  """What is timed; each hears every clip."""
  lists = [sound.tolist() for sound in sounds]  # Kaldi's reads a list faster
  whole = jax.device_put((sounds, np.full(len(sounds), sounds.shape[1], np.int32)))
  filters = {
    'kaldi': features.kaldi_filters(BINS),
    'whisper': features.mel_filters(BINS),
  }

  def device(name: str) -> Callable[[], np.ndarray]:
    function, weights = jax.jit(log_mel.LOG_MEL[name]), jax.device_put(filters[name])
    return lambda: np.asarray(function(*whole, weights)[0])

  return {
    'kaldi': lambda: np.stack([features.kaldi_log_mel(x, BINS) for x in sounds]),
    'kaldi_native_fbank': lambda: np.stack([kaldi_native(x) for x in lists]),
    'whisper': lambda: np.stack([features.whisper_log_mel(x, BINS) for x in sounds]),
    'librosa': lambda: np.stack([librosa_whisper(x) for x in sounds]),
    'device_kaldi': device('kaldi'),
    'device_whisper': device('whisper'),
  }


def differences(timed: Calls) -> dict[str, float]:
  """The greatest differences; raises ValueError if one is too large."""
  made = {name: call() for name, call in timed.items()}  # compiles, too
  pairs = {
    'max_abs_diff': ('kaldi', 'kaldi_native_fbank'),
    'max_abs_diff_librosa': ('whisper', 'librosa'),
    'device_max_abs_diff': ('device_kaldi', 'kaldi'),
    'device_max_abs_diff_whisper': ('device_whisper', 'whisper'),
  }
  found = {k: float(np.abs(made[a] - made[b]).max()) for k, (a, b) in pairs.items()}
  if max(found.values()) > CLOSE:
    raise ValueError(f'spectrograms differ by more than {CLOSE}: {found}')
  return found


def measure(clips: int, seconds: float, rounds: int) -> dict[str, float]:
  """Medians of alternating rounds, as ratios and as audio time over run time."""
  timed = calls(speech_like(clips, seconds))
  found = differences(timed)
  spent: dict[str, list[float]] = {name: [] for name in timed}
  for _ in range(rounds):
    for name, call in timed.items():
      start = time.perf_counter()
      call()
      spent[name].append(time.perf_counter() - start)
  median = {name: float(np.median(values)) for name, values in spent.items()}
  print(
    {name: f'{1e3 * value / clips:.2f} ms a clip' for name, value in median.items()}
  )
  heard = clips * seconds
  return {
    'ratio_vs_kaldi_native_fbank': median['kaldi_native_fbank'] / median['kaldi'],
    'ratio_vs_librosa': median['librosa'] / median['whisper'],
    'x_real_time': heard / median['kaldi'],
    'x_real_time_whisper': heard / median['whisper'],
    'device_x_real_time': heard / median['device_kaldi'],
    'device_x_real_time_whisper': heard / median['device_whisper'],
    **found,
  }


def main(argv: list[str]) -> None:
  """Prints the figures."""
  del argv
  result = measure(_CLIPS.value, SECONDS, _ROUNDS.value)
  figures = {name: float(f'{value:.4g}') for name, value in result.items()}
  print(json.dumps({**figures, 'device': jax.devices()[0].device_kind}))


if __name__ == '__main__':
  app.run(main)
