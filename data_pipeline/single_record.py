# SPDX-License-Identifier: Apache-2.0
"""One record of a prepared folder: look it up, describe, export, plot and play it."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float

from data_pipeline.features import HOP, SAMPLE_RATE, whisper_log_mel
from data_pipeline.id_hashes import hash_id
from data_pipeline.records import Dataset

PLAYERS = (
  ('ffplay', '-nodisp', '-autoexit', '-loglevel', 'error'),
  ('aplay', '-q'),
  ('afplay',),
)


def find_utterance(dataset: Dataset, key: str) -> dict[str, Any]:
  """Return the utterance with id `key` or, if there is none, of number `key`."""
  numbers = np.flatnonzero(dataset.lines.id_hashes == hash_id(key)).tolist()
  found = [number for number in numbers if dataset.ids[number] == key]
  index = found[0] if found else int(key) if key.isdecimal() else len(dataset)
  if index >= len(dataset):
    raise ValueError(
      f'--record={key} is neither an id (the first is {dataset.ids[0]!r}) nor a '
      f'number from 0 to {len(dataset) - 1}'
    )
  return {'number': index} | dataset[index]


def describe(utterance: dict[str, Any]) -> dict[str, str]:
  """Return the fields of an utterance and statistics of its audio, by name."""
  audio = utterance['audio']
  fields = {name: str(value) for name, value in utterance.items() if value is not None}
  del fields['audio']
  root_mean_square = np.sqrt(np.mean(np.square(audio, dtype=np.float64)))
  return fields | {
    'seconds': f'{len(audio) / SAMPLE_RATE:.3f}',
    'peak': f'{np.abs(audio).max():.3f}, root mean square {root_mean_square:.3f}',
  }


def render(
  audio: Float[np.ndarray, ' samples'],
  wav: str | None,
  play_audio: bool,
  plot: str | None,
) -> None:
  """Write 16 kHz audio to `wav`, plot it to `plot`, and play it, as requested."""
  if wav:
    _write_wav(audio, Path(wav))
  if plot:
    draw(audio, Path(plot))
  if play_audio:
    play(audio)


def _write_wav(audio: Float[np.ndarray, ' samples'], path: Path) -> None:
  with path.open('wb') as file:  # its OSError names the path; soundfile's does not
    soundfile.write(file, audio, SAMPLE_RATE, 'PCM_16', format='WAV')


def play(audio: Float[np.ndarray, ' samples']) -> None:
  """Play 16 kHz audio with the first installed player; OSError if there is none."""
  installed = [player for player in PLAYERS if shutil.which(player[0])]
  if not installed:
    names = ', '.join(player[0] for player in PLAYERS)
    raise OSError(f'--play needs one of {names}; none is installed. Use --wav instead')
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / 'record.wav'
    _write_wav(audio, path)
    command = [*installed[0], str(path)]
    process = subprocess.run(command, capture_output=True, text=True)
  if process.returncode:
    reason = process.stderr.strip()[:200]
    raise OSError(f'{installed[0][0]} cannot play the record: {reason}')


def draw(audio: Float[np.ndarray, ' samples'], path: Path) -> None:
  """Write a PNG of the waveform above the log-mel spectrogram."""
  from matplotlib.figure import Figure  # slow to import

  figure = Figure(figsize=(10, 4.5), layout='constrained')
  top, bottom = figure.subplots(2, sharex=True, height_ratios=(1, 2))
  time = np.arange(len(audio)) / SAMPLE_RATE
  top.plot(time, audio, color='#35618f', linewidth=0.5)
  top.set(ylabel='amplitude')
  log_mel = whisper_log_mel(audio)
  seconds = len(log_mel) * HOP / SAMPLE_RATE
  bottom.imshow(
    log_mel.T,
    aspect='auto',
    origin='lower',
    cmap='magma',
    extent=(0, seconds, 0, log_mel.shape[1]),
  )
  bottom.set(xlabel='seconds', ylabel='mel bin', xlim=(0, len(audio) / SAMPLE_RATE))
  with path.open('wb') as file:
    figure.savefig(file, format='png', dpi=120)
