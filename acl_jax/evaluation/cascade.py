# SPDX-License-Identifier: Apache-2.0
"""The cascade to compare with: a strong recogniser writes, the LLM reads."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from acl_jax.evaluation.cache import ResultCache
from acl_jax.runtime.files import sha256
from acl_jax.weights.fingerprint import fingerprint
from data_pipeline import audio
from data_pipeline.corpora.utterance import Utterance

FILES = ('model.bin', 'config.json', 'tokenizer.json')  # else it would ask a hub
BEAM_SIZE = 5


class Recogniser:
  """Whisper through faster-whisper, at its best: float32, beam search, as English."""

  def __init__(self, folder: str | Path):
    folder = Path(folder)
    try:
      import faster_whisper  # an extra, so only where it is wanted
    except ImportError:
      raise ValueError(
        'the cascade needs faster-whisper, which is not installed: '
        "pip install 'acl_jax[demo]', or leave the cascade out with --cascade=none"
      ) from None
    for name in FILES:
      if not (folder / name).is_file():
        raise FileNotFoundError(
          f'{folder}: no {name}; --cascade wants a CTranslate2 folder of Whisper'
        )
    # It samples where beam search fails; the threads that it starts take this seed.
    faster_whisper.transcribe.ctranslate2.set_random_seed(0)
    try:
      self.model = faster_whisper.WhisperModel(
        str(folder),
        device='cpu',
        compute_type='float32',
        cpu_threads=min(8, _count_cores()),
        local_files_only=True,
      )
    except RuntimeError as error:
      raise ValueError(f'{folder}: cannot be loaded as Whisper ({error})') from None
    self.sha256 = sha256(folder / 'model.bin')

  def __call__(self, sound: Float32[np.ndarray, ' samples']) -> str:
    """What is said in 16 kHz mono audio."""
    segments, _ = self.model.transcribe(
      sound,
      language='en',
      beam_size=BEAM_SIZE,
      condition_on_previous_text=False,
    )
    return ''.join(segment.text for segment in segments).strip()


def _count_cores() -> int:
  """Those that this process may use: a thread too many would make all of them wait."""
  if hasattr(os, 'sched_getaffinity'):  # Linux
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def transcribe(
  recogniser: Recogniser,
  utterances: Sequence[Utterance],
  cache: ResultCache,
  advance: Callable[[int], None],
) -> list[str]:
  """The transcripts of recordings; `cache` is this recogniser's, by audio."""
  transcripts = []
  for utterance in utterances:
    sound = utterance.read(audio.Limits())
    key = fingerprint([sound.tobytes()])
    if key not in cache:
      cache[key] = recogniser(sound)
    transcripts.append(cache[key])
    advance(1)
  return transcripts
