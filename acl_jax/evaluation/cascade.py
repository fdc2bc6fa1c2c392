# SPDX-License-Identifier: Apache-2.0
"""The cascade baseline: a strong recogniser transcribes, the LLM reads the text."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from acl_jax.evaluation.cache import ResultCache
from acl_jax.runtime.files import sha256
from acl_jax.weights.fingerprint import fingerprint
from data_pipeline import audio
from data_pipeline.corpora.utterance import Utterance

# faster-whisper would download a missing tokenizer.json.
REQUIRED_FILES = ('model.bin', 'config.json', 'tokenizer.json')
BEAM_SIZE = 5
MAX_THREADS = 8


class Recogniser:
  """Whisper through faster-whisper: float32, beam search.

  Raises ValueError if faster-whisper is missing or cannot load `folder`, and
  FileNotFoundError if a file of the folder is missing.

  folder: Whisper in CTranslate2's format. at_once: how many threads may call it at the
  same time, each with its share of the cores; None for one per core, which is the
  fastest for many utterances, as the threads of one call wait for each other.
  """

  at_once = 1

  def __init__(self, folder: str | Path, at_once: int | None = None):
    folder = Path(folder)
    try:
      import faster_whisper  # an optional dependency
    except ImportError:
      raise ValueError(
        'the cascade requires faster-whisper, which is not installed. Run '
        "pip install 'acl_jax[demo]', or skip the cascade with --cascade=none"
      ) from None
    for name in REQUIRED_FILES:
      if not (folder / name).is_file():
        raise FileNotFoundError(
          f'{folder}: {name} is missing. Set --cascade to a folder with a '
          'CTranslate2 Whisper model'
        )
    cores = min(MAX_THREADS, _count_cores())
    self.at_once = at_once or cores
    # Whisper falls back to sampling if beam search fails; its threads use this seed.
    faster_whisper.transcribe.ctranslate2.set_random_seed(0)
    try:
      self.model = faster_whisper.WhisperModel(
        str(folder),
        device='cpu',
        compute_type='float32',
        cpu_threads=max(1, cores // self.at_once),
        num_workers=self.at_once,
        local_files_only=True,
      )
    except RuntimeError as error:
      raise ValueError(f'{folder}: cannot load as a Whisper model: {error}') from None
    self.sha256 = sha256(folder / 'model.bin')

  def __call__(
    self, waveform: Float32[np.ndarray, ' samples'], language: str = 'en'
  ) -> str:
    """Transcribe 16 kHz mono audio; the language is guessed if it is not known."""
    known = language in self.model.supported_languages
    segments, _ = self.model.transcribe(
      waveform,
      language=language if known else None,
      beam_size=BEAM_SIZE,
      condition_on_previous_text=False,
    )
    return ''.join(segment.text for segment in segments).strip()


def _count_cores() -> int:
  """Number of cores this process may use; more threads than cores stall each other."""
  if hasattr(os, 'sched_getaffinity'):  # Linux
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def transcribe_utterances(
  recogniser: Recogniser,
  utterances: Sequence[Utterance],
  cache: ResultCache,
  advance: Callable[[int], None],
) -> list[str]:
  """Transcribe utterances, in order.

  Args:
    recogniser: Applied to utterances that are not in the cache.
    utterances: Their audio must be readable.
    cache: This recogniser's transcripts, keyed by a fingerprint of the waveform.
    advance: Called with 1 after each utterance.
  """

  def transcribe(utterance: Utterance) -> str:
    waveform = utterance.read(audio.Limits())
    key = fingerprint([waveform.tobytes()])
    if key not in cache:
      cache[key] = recogniser(waveform)
    return cache[key]

  transcripts = []
  beside = ThreadPoolExecutor(recogniser.at_once)
  try:
    for transcript in beside.map(transcribe, utterances):
      transcripts.append(transcript)
      advance(1)
  finally:
    beside.shutdown(cancel_futures=True)
  return transcripts
