# SPDX-License-Identifier: Apache-2.0
"""Whisper through faster-whisper: transcripts, and how likely they are right."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from acl_jax.runtime.files import sha256
from data_pipeline.audio import SAMPLE_RATE

# faster-whisper would download a missing tokenizer.json.
REQUIRED_FILES = ('model.bin', 'config.json', 'tokenizer.json')
BEAM_SIZE = 5
MAX_THREADS = 8
COMPUTE_TYPES = {'cpu': 'float32', 'cuda': 'float16'}  # by device
WINDOW_SECONDS = 30.0  # that Whisper hears at once
# Whisper's own thresholds, beyond which it decodes again or hears no speech.
MAX_COMPRESSION, MIN_LOG_PROB, MAX_NO_SPEECH = 2.4, -1.0, 0.6


class Transcript(NamedTuple):
  """What was recognised, and the measures by which Whisper judges it.

  lang: as it was known or guessed. mean_log_prob: of the tokens, in nats.
  no_speech_prob: that nobody speaks. compression_ratio: of the text, which is high if
  it repeats itself.
  """

  text: str
  lang: str
  mean_log_prob: float = 0.0
  no_speech_prob: float = 1.0
  compression_ratio: float = 0.0

  @property
  def is_silence(self) -> bool:
    """Whether Whisper hears no speech, whatever its text."""
    is_unlikely = self.mean_log_prob < MIN_LOG_PROB
    return not self.text or (is_unlikely and self.no_speech_prob > MAX_NO_SPEECH)

  @property
  def repeats(self) -> bool:
    """Whether the text repeats itself, as Whisper's errors do."""
    return self.compression_ratio > MAX_COMPRESSION

  @property
  def is_unlikely(self) -> bool:
    """Whether Whisper was unsure."""
    return self.mean_log_prob < MIN_LOG_PROB


class Whisper:
  """Whisper: beam search, in float32 on the CPU.

  Raises ValueError if faster-whisper is missing or cannot load `folder`, and
  FileNotFoundError if a file of the folder is missing.

  folder: Whisper in CTranslate2's format. flag: names the folder in advice. at_once:
  how many threads may call it at the same time, each with its share of the cores; None
  for one per core, which is the fastest for many utterances, as the threads of one call
  wait for each other. device: a key of COMPUTE_TYPES. otherwise: what to do without
  faster-whisper, but install it.
  """

  at_once = 1

  def __init__(
    self,
    folder: str | Path,
    flag: str = '--model',
    at_once: int | None = None,
    device: str = 'cpu',
    otherwise: str = '',
  ):
    folder = Path(folder)
    try:
      import faster_whisper  # an optional dependency
    except ImportError:
      raise ValueError(
        f'{flag} requires faster-whisper, which is not installed. Run '
        f"pip install 'acl_jax[demo]'{otherwise}"
      ) from None
    for name in REQUIRED_FILES:
      if not (folder / name).is_file():
        raise FileNotFoundError(
          f'{folder}: {name} is missing. Set {flag} to a folder with a '
          'CTranslate2 Whisper model'
        )
    cores = min(MAX_THREADS, _count_cores())
    # On an accelerator one thread reads audio while another one decodes.
    self.at_once = at_once or (cores if device == 'cpu' else 2)
    # Whisper falls back to sampling if beam search fails; its threads use this seed.
    faster_whisper.transcribe.ctranslate2.set_random_seed(0)
    try:
      self.model = faster_whisper.WhisperModel(
        str(folder),
        device=device,
        compute_type=COMPUTE_TYPES[device],
        cpu_threads=max(1, cores // self.at_once),
        num_workers=self.at_once if device == 'cpu' else 1,
        local_files_only=True,
      )
    except (RuntimeError, ValueError) as error:
      raise ValueError(f'{folder}: cannot load as a Whisper model: {error}') from None
    self.sha256 = sha256(folder / 'model.bin')

  def __call__(
    self, waveform: Float32[np.ndarray, ' samples'], language: str = 'en'
  ) -> str:
    """Transcribe 16 kHz mono audio; the language is guessed if it is not known."""
    return self.transcribe_long(waveform, language).text

  def knows(self, language: str) -> bool:
    """Return whether it was trained on a language, by its code."""
    return language in self.model.supported_languages

  def transcribe(
    self,
    waveforms: Sequence[Float32[np.ndarray, '_']],
    languages: Sequence[str | None],
  ) -> list[Transcript]:
    """Transcribe 16 kHz mono audio, in order; languages that are not known are guessed.

    What one window holds is decoded as one batch, and again, by itself, if it is
    unlikely or repeats itself.
    """
    found: dict[int, Transcript] = {}
    window = WINDOW_SECONDS * SAMPLE_RATE
    short = [i for i, waveform in enumerate(waveforms) if len(waveform) <= window]
    if short:
      chosen = [waveforms[i] for i in short], [languages[i] for i in short]
      found = dict(zip(short, self._transcribe_windows(*chosen), strict=True))
    for i, waveform in enumerate(waveforms):
      first = found.get(i)
      if first is None:
        found[i] = self.transcribe_long(waveform, languages[i])
      elif not first.is_silence and (first.repeats or first.is_unlikely):
        found[i] = self.transcribe_long(waveform, first.lang)
    return [found[i] for i in range(len(waveforms))]

  def transcribe_long(
    self, waveform: Float32[np.ndarray, ' samples'], language: str | None
  ) -> Transcript:
    """Transcribe audio of any length, window by window, with sampling as a fallback."""
    segments, info = self.model.transcribe(
      waveform,
      language=language if language and self.knows(language) else None,
      beam_size=BEAM_SIZE,
      condition_on_previous_text=False,
    )
    segments = list(segments)
    if not segments:
      return Transcript('', info.language)
    weights = [len(segment.tokens) + 1 for segment in segments]
    return Transcript(
      ''.join(segment.text for segment in segments).strip(),
      info.language,
      float(np.average([s.avg_logprob for s in segments], weights=weights)),
      float(np.average([s.no_speech_prob for s in segments], weights=weights)),
      max(segment.compression_ratio for segment in segments),
    )

  def _transcribe_windows(
    self,
    waveforms: Sequence[Float32[np.ndarray, '_']],
    languages: Sequence[str | None],
  ) -> list[Transcript]:
    """Transcribe audio of up to WINDOW_SECONDS as one batch."""
    from faster_whisper import audio, transcribe

    extract = self.model.feature_extractor
    features = [extract(waveform)[..., :-1] for waveform in waveforms]
    encoded = self.model.encode(np.stack([audio.pad_or_trim(x) for x in features]))
    languages = self._guess_languages(encoded, languages)
    tokenizers = [self._tokenizer(language) for language in languages]
    results = self.model.model.generate(
      encoded,
      [[*tokenizer.sot_sequence, tokenizer.no_timestamps] for tokenizer in tokenizers],
      beam_size=BEAM_SIZE,
      max_length=self.model.max_length,
      return_scores=True,
      return_no_speech_prob=True,
      suppress_tokens=transcribe.get_suppressed_tokens(tokenizers[0], [-1]),
    )
    transcripts = []
    for result, tokenizer, lang in zip(results, tokenizers, languages, strict=True):
      tokens = result.sequences_ids[0]
      text = tokenizer.decode(tokens).strip()
      # The score is a mean over the tokens without the one that ends the text.
      log_prob = result.scores[0] * len(tokens) / (len(tokens) + 1)
      ratio = transcribe.get_compression_ratio(text)
      transcripts.append(Transcript(text, lang, log_prob, result.no_speech_prob, ratio))
    return transcripts

  def _guess_languages(self, encoded: Any, known: Sequence[str | None]) -> list[str]:
    """Return the known languages of a batch, and guesses of the others."""
    if not self.model.model.is_multilingual:
      return ['en'] * len(known)
    known = [code if code and self.knows(code) else None for code in known]
    if None not in known:
      return [str(code) for code in known]
    guesses = self.model.model.detect_language(encoded)
    return [
      code or ranked[0][0].strip('<|>')
      for code, ranked in zip(known, guesses, strict=True)
    ]

  def _tokenizer(self, language: str) -> Any:
    from faster_whisper.tokenizer import Tokenizer

    multilingual = self.model.model.is_multilingual
    return Tokenizer(self.model.hf_tokenizer, multilingual, 'transcribe', language)


def _count_cores() -> int:
  """Number of cores this process may use; more threads than cores stall each other."""
  if hasattr(os, 'sched_getaffinity'):  # Linux
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
