# SPDX-License-Identifier: Apache-2.0
"""One record of a prepared folder, to be read, heard and looked at."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float

from data_pipeline.features import HOP, SAMPLE_RATE, whisper_log_mel
from data_pipeline.records import Dataset

PLAYERS = (
  ('ffplay', '-nodisp', '-autoexit', '-loglevel', 'error'),
  ('aplay', '-q'),
  ('afplay',),
)


def find(dataset: Dataset, which: str) -> dict[str, Any]:
  """The utterance of this id or, where no id is so called, of this number."""
  try:
    place = dataset.ids.index(which)
  except ValueError:
    place = int(which) if which.isdecimal() else len(dataset)
  if place >= len(dataset):
    raise ValueError(
      f'--record={which} is neither an id (the first is {dataset.ids[0]!r}) nor a '
      f'number from 0 to {len(dataset) - 1}'
    )
  return {'number': place} | dataset[place]


def facts(utterance: dict[str, Any]) -> dict[str, str]:
  """What is known of an utterance, each fact with its name."""
  sound = utterance['audio']
  said = {name: str(value) for name, value in utterance.items() if value is not None}
  del said['audio']
  return said | {
    'seconds': f'{len(sound) / SAMPLE_RATE:.3f}',
    'peak': f'{np.abs(sound).max():.3f}, root mean square '
    f'{np.sqrt(np.mean(np.square(sound, dtype=np.float64))):.3f}',
  }


def render(
  sound: Float[np.ndarray, ' samples'], wav: str | None, heard: bool, plot: str | None
) -> None:
  """Writes, draws and plays 16 kHz audio, as asked for."""
  if wav:
    _write_wav(sound, Path(wav))
  if plot:
    draw(sound, Path(plot))
  if heard:
    play(sound)


def _write_wav(sound: Float[np.ndarray, ' samples'], path: Path) -> None:
  with path.open('wb') as file:  # an OSError that names the file, if it cannot be
    soundfile.write(file, sound, SAMPLE_RATE, 'PCM_16', format='WAV')


def play(sound: Float[np.ndarray, ' samples']) -> None:
  """Plays 16 kHz audio through the first player that is installed; OSError if none."""
  found = [player for player in PLAYERS if shutil.which(player[0])]
  if not found:
    names = ', '.join(player[0] for player in PLAYERS)
    raise OSError(f'--play needs one of {names}, and none is installed; try --wav')
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / 'record.wav'
    _write_wav(sound, path)
    done = subprocess.run([*found[0], str(path)], capture_output=True, text=True)
  if done.returncode:
    raise OSError(f'{found[0][0]} cannot play the record: {done.stderr.strip()[:200]}')


def draw(sound: Float[np.ndarray, ' samples'], path: Path) -> None:
  """A PNG of the waveform above the log-mel spectrogram, low notes at the bottom."""
  from matplotlib.figure import Figure  # slow to import

  figure = Figure(figsize=(10, 4.5), layout='constrained')
  above, below = figure.subplots(2, sharex=True, height_ratios=(1, 2))
  time = np.arange(len(sound)) / SAMPLE_RATE
  above.plot(time, sound, color='#35618f', linewidth=0.5)
  above.set(ylabel='amplitude')
  log_mel = whisper_log_mel(sound)
  seconds = len(log_mel) * HOP / SAMPLE_RATE
  below.imshow(
    log_mel.T,
    aspect='auto',
    origin='lower',
    cmap='magma',
    extent=(0, seconds, 0, log_mel.shape[1]),
  )
  below.set(xlabel='seconds', ylabel='mel bin', xlim=(0, len(sound) / SAMPLE_RATE))
  with path.open('wb') as file:
    figure.savefig(file, format='png', dpi=120)
