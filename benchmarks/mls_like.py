# SPDX-License-Identifier: Apache-2.0
"""Make a corpus in the layout of Multilingual LibriSpeech (MLS), for benchmarks."""

import os
from pathlib import Path

import numpy as np
import soundfile

from data_pipeline import audio

ROOT = Path(__file__).parent.parent
SECONDS = range(2, 21)  # of the utterances


def make_corpus(folder: Path, utterances: int, with_audio: bool = True) -> Path:
  """Make a split like those of MLS; without audio, only the first has a file."""
  book = folder / 'audio/1/2'
  book.mkdir(parents=True)
  names = [f'1_2_{i:07d}' for i in range(utterances)]
  text = 'what was said in this recording and written down by its reader'
  lines = (f'{name}\t{text} {name}\n' for name in names)
  (folder / 'transcripts.txt').write_text(''.join(lines))
  for i, name in enumerate(names if with_audio else names[:1]):
    if i < len(SECONDS):
      soundfile.write(book / f'{name}.flac', speech(SECONDS[i]), audio.SAMPLE_RATE)
    else:
      os.link(book / f'{names[i % len(SECONDS)]}.flac', book / f'{name}.flac')
  return folder


def speech(seconds: int) -> np.ndarray:
  """Return real speech, different for every length."""
  paths = sorted((ROOT / 'data_pipeline/recordings').glob('audio/**/*.*'))
  samples, length = np.empty(0, np.float32), seconds * audio.SAMPLE_RATE
  for path in paths[seconds::7]:
    if len(samples) < length:
      samples = np.concatenate([samples, audio.read(path)])
  return samples[:length]
