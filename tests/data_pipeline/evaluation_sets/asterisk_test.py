# SPDX-License-Identifier: Apache-2.0
"""Prompts in the layout of Debian's packages, made here."""

import gzip

import numpy as np
import pytest
import soundfile

from data_pipeline import audio
from data_pipeline.evaluation_sets import asterisk

LISTS = {
  'en': (
    '; Core Asterisk Sounds in English\n\n'
    'vm-one: You have one new message.\n'
    'vm-two:  You have two  new messages.\n'
    'digits/plus: please say the number again\n'
    'vm-silent: You have no audio here.\n'
    'vm-tone: You hear this. (tone)\n'
    'goodbye: Goodbye.\n'
    'added-twice: you have ONE new message\n'
    'agent-loginok: Please enter your new password.\n'
    '../escape: This leaves the folder.\n'
    'not a line\n'
  ),
  'fr': (
    '\ufeff; Sons\n'
    'vm-one: Vous avez un nouveau message.\n'
    'vm-two: Vous avez deux nouveaux messages.\n'
    'digits/plus: veuillez répéter le numéro\n'
    'vm-silent: Il manque le fichier audio.\n'
    'vm-tone: Vous entendez un bip.\n'
    'goodbye: Au revoir à tous.\n'
    'added-twice: Vous avez encore un message.\n'
    '../escape: Ceci quitte le dossier.\n'
    'fr-only: Ceci est seulement en français.\n'
  ),
}
VOICES = {'en': 'en_US_f_Allison', 'fr': 'fr_CA_f_June'}
NAMES = ('vm-one', 'vm-two', 'digits/plus', 'vm-tone', 'goodbye', 'added-twice')


@pytest.fixture
def root(tmp_path):
  for lang, text in LISTS.items():
    folder = tmp_path / 'doc' / f'asterisk-core-sounds-{lang}'
    folder.mkdir(parents=True)
    (folder / f'core-sounds-{lang}.txt.gz').write_bytes(gzip.compress(text.encode()))
    sounds = tmp_path / 'asterisk/sounds' / VOICES[lang]
    (sounds / 'digits').mkdir(parents=True)
    for number, name in enumerate(NAMES):
      samples = np.full(1_600 + number, 500, np.int16)
      soundfile.write(sounds / f'{name}.wav', samples, 8_000)
  (tmp_path / 'asterisk/sounds/escape.wav').write_bytes(b'RIFF')
  return tmp_path


def test_the_same_name_is_a_pair_in_both_directions(root):
  pairs, missing = asterisk.read_pairs(root)
  by_direction = {
    (lang, target): {
      pair.name: (pair.text, pair.reference)
      for pair in pairs
      if (pair.lang, pair.target_lang) == (lang, target)
    }
    for lang, target in (('en', 'fr'), ('fr', 'en'))
  }
  one = ('You have one new message.', 'Vous avez un nouveau message.')
  two = ('You have two new messages.', 'Vous avez deux nouveaux messages.')
  assert by_direction['fr', 'en']['vm-one'] == one[::-1]
  assert by_direction['en', 'fr']['vm-two'] == two
  assert set(by_direction['fr', 'en']) == {
    'vm-one',
    'vm-two',
    'digits/plus',
    'added-twice',
  }
  # In English, added-twice is the text of vm-one once more.
  assert len(by_direction['en', 'fr']) == 3
  assert len({pair.id for pair in pairs}) == len(pairs) == 7
  assert len(missing) == 3 and all('install' in reason for reason in missing)


def test_what_is_trained_on_is_left_out(root, monkeypatch):
  recordings = root / 'manifest.jsonl'
  recordings.write_text('{"text": "You have TWO new messages!"}\n')
  monkeypatch.setattr(asterisk, 'RECORDINGS', recordings)
  names = {pair.name for pair in asterisk.read_pairs(root)[0]}
  assert 'vm-one' in names and 'vm-two' not in names


def test_the_recordings_of_the_repository_are_read():
  assert len(asterisk._read_trained()) > 200


@pytest.mark.parametrize('suffix', ['.wav', '.gsm'])
def test_audio_becomes_flac_that_the_pipeline_reads(root, tmp_path, suffix):
  sounds = root / 'asterisk/sounds' / VOICES['fr']
  tone = (8_000 * np.sin(np.arange(3_200) * 0.3)).astype(np.int16)
  (sounds / 'vm-one.wav').unlink()
  options = {'format': 'RAW', 'subtype': 'GSM610'} if suffix == '.gsm' else {}
  soundfile.write(sounds / f'vm-one{suffix}', tone, 8_000, **options)
  pairs, _ = asterisk.read_pairs(root)
  (pair,) = (p for p in pairs if p.name == 'vm-one' and p.lang == 'fr')
  output = tmp_path / 'x.flac'
  asterisk.write_audio(pair, output)
  samples = audio.read(output, limits=audio.Limits())
  assert len(samples) == 6_400 and samples.std() > 0.1


def test_audio_that_cannot_be_decoded_is_named(root, tmp_path):
  path = root / 'asterisk/sounds' / VOICES['en'] / 'vm-two.wav'
  path.write_bytes(b'RIFF' + bytes(40))
  (pair, *_) = (p for p in asterisk.read_pairs(root)[0] if p.audio == path.resolve())
  with pytest.raises(ValueError, match='vm-two.wav'):
    asterisk.write_audio(pair, tmp_path / 'x.flac')
  path.write_bytes(bytes(asterisk.MAX_AUDIO_BYTES + 1))
  with pytest.raises(ValueError, match='the limit is'):
    asterisk.write_audio(pair, tmp_path / 'x.flac')


def test_what_is_not_installed_is_named(root, tmp_path):
  with pytest.raises(
    asterisk.NotInstalledError, match="Debian's asterisk-core-sounds-en"
  ):
    asterisk.read_pairs(tmp_path / 'nothing')
  for path in (root / 'doc/asterisk-core-sounds-fr').iterdir():
    path.unlink()
  with pytest.raises(asterisk.NotInstalledError, match='no language but English'):
    asterisk.read_pairs(root)


def test_a_damaged_or_huge_list_is_refused(root):
  path = root / 'doc/asterisk-core-sounds-en/core-sounds-en.txt.gz'
  path.write_bytes(gzip.compress(bytes(asterisk.MAX_LIST_BYTES + 1)))
  with pytest.raises(ValueError, match='more than'):
    asterisk.read_pairs(root)
  path.write_bytes(gzip.compress(LISTS['en'].encode())[:-20])
  with pytest.raises(ValueError, match='is damaged'):
    asterisk.read_pairs(root)
