# SPDX-License-Identifier: Apache-2.0
"""Kokoro-82M: voices and their blends, phonemes, and speech from onnxruntime.

espeak-ng, a separate program, writes the phonemes that Kokoro was trained on.
"""

import difflib
import json
import re
import shutil
import subprocess
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from data_pipeline.corpus_tools.spoken import spell_out

SAMPLE_RATE = 24_000
MAX_TOKENS = 509  # 512 positions less the padding at both ends, and one more
_STYLE_SIZE = 256
_MAX_STYLE_BYTES = 4 << 20
_PAUSES = re.compile(r'((?:(?<!\d)[;:,.!?—…"()]|[;:,.!?—…"()](?!\d))+)')
_LANGUAGE_CHANGE = re.compile(r'\([a-z]{2,3}(?:-[a-z]+)?\)')  # in espeak-ng's phonemes
_REPLACEMENTS = tuple(
  (re.compile(pattern), replacement)
  for pattern, replacement in (
    ('ʲ', 'j'),
    ('r', 'ɹ'),
    ('x', 'k'),
    ('ɬ', 'l'),
    ('(?<=[a-zɹː])(?=hˈʌndɹɪd)', ' '),
    (r'\s+', ' '),
  )
)


def check_voice(name: str, folder: Path) -> None:
  """Check that a voice, or every voice of a blend `a+b`, can be used.

  ValueError if it is unknown or styles differ in length; FileNotFoundError if espeak-ng
  or onnxruntime is not installed.
  """
  if shutil.which('espeak-ng') is None:
    raise FileNotFoundError(
      f"voice 'kokoro:{name}' requires the program espeak-ng; install it"
    )
  if find_spec('onnxruntime') is None:
    raise FileNotFoundError(
      f"voice 'kokoro:{name}' requires onnxruntime; pip install 'acl_jax[demo]'"
    )
  load_style(name, folder)


def load_style(name: str, folder: Path) -> Float32[np.ndarray, 'lengths size']:
  """Return the style of a voice by number of tokens; of a blend, the mean."""
  styles: dict[str, np.ndarray] = {}
  for part in (parts := name.split('+')):
    path = folder / f'{part}.bin'
    if not re.fullmatch(r'\w+', part) or not path.is_file():
      known = sorted(path.stem for path in folder.glob('[a-z][a-z]_*.bin'))
      close = difflib.get_close_matches(part, known, 1, 0.5)
      hint = (
        f'did you mean {close[0]!r}?' if close else f'use one of {", ".join(known)}'
      )
      raise ValueError(f'kokoro has no voice {part!r}; {hint}')
    if (size := path.stat().st_size) > _MAX_STYLE_BYTES or size % (4 * _STYLE_SIZE):
      raise ValueError(f'{path}: {size} bytes are not styles of {_STYLE_SIZE} floats')
    styles[part] = np.fromfile(path, '<f4').reshape(-1, _STYLE_SIZE)
  lengths = {part: len(style) for part, style in styles.items()}
  if len(set(lengths.values())) > 1:
    listed = ', '.join(f'{part} has {length}' for part, length in lengths.items())
    raise ValueError(
      f'kokoro:{name} blends styles of unequal length ({listed}); blend equal ones'
    )
  return np.asarray(np.mean([styles[part] for part in parts], axis=0, dtype=np.float32))


def phonemize(text: str, language: str) -> str:
  """Return the phonemes of a line; espeak-ng reads what stands between punctuation."""
  out = ''
  for number, part in enumerate(_PAUSES.split(spell_out(text))):
    if number % 2:
      out += part
    elif part.strip():
      spaces = (' ' if out and part[0].isspace() else ''), ' ' * part[-1].isspace()
      out += spaces[0] + _run_espeak(part.strip(), language) + spaces[1]
  for pattern, replacement in _REPLACEMENTS:
    out = pattern.sub(replacement, out)
  return out.strip()


def _run_espeak(text: str, language: str) -> str:
  command = ['espeak-ng', '-q', '--ipa', '-v', language, '--stdin']
  try:
    process = subprocess.run(
      command, input=text.encode(), capture_output=True, timeout=30, check=False
    )
  except FileNotFoundError:
    raise FileNotFoundError(
      'kokoro requires the program espeak-ng; install it'
    ) from None
  if process.returncode:
    stderr = process.stderr.decode(errors='replace').strip()[-200:]
    raise ChildProcessError(f'espeak-ng failed on {text!r}: {stderr}')
  phonemes = _LANGUAGE_CHANGE.sub('', process.stdout.decode(errors='replace'))
  return ' '.join(phonemes.split())


class Kokoro:
  """The model of an asset folder, run on one thread."""

  def __init__(self, folder: Path):
    import onnxruntime  # of the extra `demo`

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    self._folder = folder
    self._session = onnxruntime.InferenceSession(
      (folder / 'part.bin').read_bytes(), options, providers=['CPUExecutionProvider']
    )

  @cached_property
  def _vocabulary(self) -> dict[str, int]:
    return json.loads((self._folder / 'config.json').read_text('utf-8'))['vocab']

  def tokenize(self, text: str, voice: str) -> list[int]:
    """Return the token of every phoneme; ValueError if there are none or too many."""
    # The first letter of a name is its language: American or British.
    phonemes = phonemize(text, 'en-gb' if voice[0] == 'b' else 'en-us')
    return to_tokens(phonemes, self._vocabulary, text)

  def speak(self, text: str, voice: str, rate: float) -> Float32[np.ndarray, 'samples']:
    """Return a line as speech at `SAMPLE_RATE`; `rate` is relative to the voice's."""
    tokens = self.tokenize(text, voice)
    style = load_style(voice, self._folder)
    inputs = {
      'tokens': np.array([[0, *tokens, 0]], np.int64),
      'style': style[min(len(tokens), len(style) - 1)][None],
      'speed': np.array([rate], np.float32),
    }
    return np.asarray(self._session.run(None, inputs)[0], np.float32).reshape(-1)


def to_tokens(phonemes: str, vocabulary: dict[str, int], text: str) -> list[int]:
  """Return the tokens of the phonemes that are known; `text` is for the errors."""
  tokens = [vocabulary[phoneme] for phoneme in phonemes if phoneme in vocabulary]
  if not any(phoneme.isalpha() and phoneme in vocabulary for phoneme in phonemes):
    raise ValueError(f'{_shorten(text)} has no phonemes; leave the line out')
  if len(tokens) > MAX_TOKENS:
    raise ValueError(
      f'{_shorten(text)} has {len(tokens)} phonemes; the limit of kokoro is'
      f' {MAX_TOKENS}: split the line'
    )
  return tokens


def _shorten(text: str) -> str:
  return repr(text if len(text) <= 60 else text[:60] + '…')
