# SPDX-License-Identifier: Apache-2.0
"""Real speech with translations: the prompts of Debian's asterisk-core-sounds.

The packages `asterisk-core-sounds-{en,fr,es,it,ru}` hold the text lists, as
`/usr/share/doc/asterisk-core-sounds-fr/core-sounds-fr.txt.gz`, and
`asterisk-core-sounds-fr-{wav,gsm}` the audio, as
`/usr/share/asterisk/sounds/fr_CA_f_June/NAME.wav`. The same name is the same prompt in
every language. Licences: CC BY-SA 3.0; Italian and Russian CC BY 3.0.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import soundfile

from acl_jax.runtime.files import replace_atomically
from data_pipeline.corpora.utterance import resolve_inside
from data_pipeline.corpus_tools.splits import normalize

LANGUAGES = ('en', 'fr', 'es', 'it', 'ru')
ROOT = Path('/usr/share')
MIN_WORDS = 3  # of two letters or more, of a prompt and of its translation
MAX_LIST_BYTES = 1 << 20  # unpacked
MAX_AUDIO_BYTES = 4 << 20
TELEPHONE_RATE = 8_000
RECORDINGS = Path(__file__).parents[1] / 'recordings' / 'manifest.jsonl'

_LINE = re.compile(r'([\w/-]+): +(\S.*)')
_WORD = re.compile(r'\w\w+')
_NOT_SAID = re.compile('[][()\ufffd]')


class Pair(NamedTuple):
  """A prompt that was recorded in one language, and its text in another."""

  name: str
  lang: str
  audio: Path
  text: str
  target_lang: str
  reference: str

  @property
  def id(self) -> str:
    """The id of the pair in a manifest."""
    return f'asterisk-{self.name.replace("/", "-")}-{self.lang}-{self.target_lang}'


class NotInstalledError(FileNotFoundError):
  """The packages of a language, or of all, are not installed."""


def read_pairs(root: Path = ROOT) -> tuple[list[Pair], list[str]]:
  """Return all pairs with English, and why other languages are left out.

  Prompts whose English text is among the recordings to train on are left out. Raises
  `NotInstalledError` without English or without any other language.
  """
  texts: dict[str, dict[str, str]] = {}
  missing = []
  for lang in LANGUAGES:
    try:
      texts[lang] = _read_list(root, lang)
      _find_folder(root, lang)
    except NotInstalledError as error:
      texts.pop(lang, None)
      missing.append(str(error))
      if lang == 'en':
        raise
  if len(texts) < 2:
    raise NotInstalledError(f'there is no language but English: {missing[0]}')
  trained = _read_trained()
  english = {k: v for k, v in texts['en'].items() if normalize(v) not in trained}
  pairs = []
  for lang in texts.keys() - {'en'}:
    shared = sorted(english.keys() & texts[lang].keys())
    for source, target in (('en', lang), (lang, 'en')):
      folder = _find_folder(root, source)
      pairs += _pair_up(shared, source, texts[source], folder, target, texts[target])
  return sorted(pairs, key=lambda pair: pair.id), missing


def _pair_up(
  names: list[str],
  lang: str,
  texts: dict[str, str],
  folder: Path,
  target_lang: str,
  references: dict[str, str],
) -> Iterator[Pair]:
  """Yield the pairs of one direction, each text once."""
  seen: set[str] = set()
  for name in names:
    audio = _find_audio(folder, name)
    key = normalize(texts[name])
    if audio is not None and key not in seen:
      seen.add(key)
      yield Pair(name, lang, audio, texts[name], target_lang, references[name])


def write_audio(pair: Pair, output: Path) -> None:
  """Write the audio of a pair as FLAC of 8 kHz; ValueError if it cannot be decoded."""
  if (size := pair.audio.stat().st_size) > MAX_AUDIO_BYTES:
    raise ValueError(f'{pair.audio} has {size} bytes; the limit is {MAX_AUDIO_BYTES}')
  raw: dict[str, Any] = {}
  if pair.audio.suffix == '.gsm':  # without a header
    raw = {'format': 'RAW', 'subtype': 'GSM610', 'channels': 1}
    raw['samplerate'] = TELEPHONE_RATE
  try:
    samples, rate = soundfile.read(pair.audio, dtype='int16', **raw)
  except soundfile.LibsndfileError as error:
    raise ValueError(f'{pair.audio}: {error}') from None
  with replace_atomically(output) as temporary:
    soundfile.write(temporary, samples, rate, format='FLAC')


def _read_list(root: Path, lang: str) -> dict[str, str]:
  """Return the texts of the prompts by name, those of at least `MIN_WORDS` words."""
  package = f'asterisk-core-sounds-{lang}'
  path = root / 'doc' / package / f'core-sounds-{lang}.txt'
  packed = path.with_suffix('.txt.gz')
  if not path.is_file() and not packed.is_file():
    raise NotInstalledError(
      f"{packed} is missing; install Debian's {package} and {package}-wav"
    )
  try:
    with path.open('rb') if path.is_file() else gzip.open(packed) as file:
      content = file.read(MAX_LIST_BYTES + 1)
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise ValueError(f'{packed} is damaged ({error})') from None
  if len(content) > MAX_LIST_BYTES:
    raise ValueError(f'{path} has more than {MAX_LIST_BYTES} bytes')
  texts = {}
  for line in content.decode('utf-8-sig', errors='replace').splitlines():
    match = _LINE.fullmatch(line.strip())
    # Brackets hold notes that are not spoken.
    if match and not _NOT_SAID.search(match[2]):
      if len(_WORD.findall(match[2])) >= MIN_WORDS:
        texts[match[1]] = ' '.join(match[2].split())
  return texts


def _find_folder(root: Path, lang: str) -> Path:
  """Return the folder of a language's audio; there is one per language and voice."""
  folders = sorted((root / 'asterisk' / 'sounds').glob(f'{lang}_??_*_*'))
  if not folders:
    sounds = root / 'asterisk' / 'sounds'
    raise NotInstalledError(
      f"{sounds}/{lang}_* is missing; install Debian's asterisk-core-sounds-{lang}-wav"
    )
  return folders[0].resolve()


def _find_audio(folder: Path, name: str) -> Path | None:
  """Return the audio of a prompt, the better format first."""
  for suffix in ('.wav', '.gsm'):
    try:
      path = resolve_inside(folder, name + suffix)
    except ValueError:
      return None
    if path.is_file():
      return path
  return None


def _read_trained() -> set[str]:
  lines = RECORDINGS.read_text(encoding='utf-8').splitlines()
  return {normalize(json.loads(line)['text']) for line in lines}
