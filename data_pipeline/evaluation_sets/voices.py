# SPDX-License-Identifier: Apache-2.0
"""Which voice speaks what: at least two per language where they are installed."""

import random
from collections.abc import Mapping, Sequence

from data_pipeline.corpus_tools.engines import Voice

# In order of preference. The first two English ones are not in the training recipe.
DEFAULT_VOICES = {
  'en': ('piper:asset:joe-voice', 'flite:rms', 'espeak-ng:en-us', 'espeak-ng:en-gb+f5'),
  'fr': ('espeak-ng:fr', 'espeak-ng:fr-be+f2'),
  'es': ('espeak-ng:es', 'espeak-ng:es-419+f2'),
  'it': ('espeak-ng:it', 'espeak-ng:it+f2'),
  'de': ('espeak-ng:de', 'espeak-ng:de+f2'),
}
DEFAULT_COUNT = 2  # of a language

Voices = dict[str, tuple[Voice, ...]]


def choose_voices(specs: Sequence[str]) -> tuple[Voices, list[str]]:
  """Return the voices by language, and why default voices are left out.

  specs: `engine:name` of English voices and `fr=engine:name` of others; a language that
  has none gets the first of its default voices that are installed. ValueError for a
  language or a voice that is unknown; FileNotFoundError if a voice that was asked for
  is not installed.
  """
  asked: dict[str, list[Voice]] = {}
  for spec in specs:
    lang, equals, name = spec.partition('=')
    if not equals:
      lang, name = 'en', spec
    if lang not in DEFAULT_VOICES:
      known = ', '.join(DEFAULT_VOICES)
      raise ValueError(f'voice {spec!r}: language {lang!r} is not one of {known}')
    voice = Voice.parse(name)
    if voice.engine in ('flite', 'kokoro') and lang != 'en':
      raise ValueError(f'voice {spec!r}: {voice.engine} speaks English only')
    asked.setdefault(lang, []).append(voice)
  voices: Voices = {lang: tuple(found) for lang, found in asked.items()}
  missing: dict[str, None] = {}
  for lang in DEFAULT_VOICES.keys() - asked.keys():
    voices[lang] = _find_defaults(lang, missing)
  return {lang: voices[lang] for lang in DEFAULT_VOICES if voices[lang]}, list(missing)


def _find_defaults(lang: str, missing: dict[str, None]) -> tuple[Voice, ...]:
  found: list[Voice] = []
  for spec in DEFAULT_VOICES[lang]:
    if len(found) == DEFAULT_COUNT:
      break
    try:
      found.append(Voice.parse(spec))
    except OSError as error:  # the engine is missing, or an asset cannot be fetched
      missing[str(error)] = None
  return tuple(found)


def pick_voice(voices: Mapping[str, Sequence[Voice]], lang: str, id: str) -> Voice:
  """Return the voice of the line with this id, which depends on nothing else."""
  return random.Random(f'{lang}/{id}').choice(voices[lang])
