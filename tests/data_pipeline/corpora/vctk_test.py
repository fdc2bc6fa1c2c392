# SPDX-License-Identifier: Apache-2.0
import pytest

from data_pipeline.corpora import BadUtterance, Utterance, open_corpus
from data_pipeline.corpora.vctk import MAX_TRANSCRIPT_BYTES


@pytest.fixture
def vctk(tmp_path):
  """Two speakers, p225 of two utterances and s5 of one, each with two microphones."""
  root = tmp_path / 'VCTK'
  for id in ('p225_002', 'p225_010', 's5_001'):
    speaker = id.split('_')[0]
    for folder in (root / 'wav48_silence_trimmed', root / 'txt'):
      (folder / speaker).mkdir(parents=True, exist_ok=True)
    for mic in (1, 2):
      path = root / f'wav48_silence_trimmed/{speaker}/{id}_mic{mic}.flac'
      path.write_bytes(b'')
    (root / f'txt/{speaker}/{id}.txt').write_text(f'Ask  her {id}.\n')
  return root


def read(path, contained=False):
  utterances = list(open_corpus('vctk', path, contained))
  good = [u for u in utterances if isinstance(u, Utterance)]
  return good, [u for u in utterances if isinstance(u, BadUtterance)]


def test_first_microphone_of_every_utterance(vctk):
  (vctk / 'wav48_silence_trimmed/log.txt').touch()
  (vctk / 'wav48_silence_trimmed/p225/odd_mic1.flac').touch()
  good, bad = read(vctk)
  assert not bad and [u.id for u in good] == ['p225_002', 'p225_010', 's5_001']
  path = vctk / 'wav48_silence_trimmed/p225/p225_010_mic1.flac'
  assert good[1] == Utterance('p225_010', path, 'Ask her p225_010.', 'p225', 'en')


def test_damage_is_skipped(vctk, tmp_path):
  (vctk / 'txt/s5/s5_001.txt').unlink()
  (vctk / 'txt/p225/p225_002.txt').write_bytes('Grüße'.encode('latin-1'))
  (vctk / 'txt/p225/p225_010.txt').write_text('x' * (MAX_TRANSCRIPT_BYTES + 1))
  (tmp_path / 'secret.txt').write_text('secret')
  for number, (link, target) in enumerate(
    (
      ('txt/s5/s5_003.txt', tmp_path / 'secret.txt'),
      ('wav48_silence_trimmed/s5/s5_004_mic1.flac', tmp_path / 'secret.txt'),
    ),
    3,
  ):
    (vctk / f'wav48_silence_trimmed/s5/s5_{number:03d}_mic1.flac').touch()
    (vctk / f'txt/s5/s5_{number:03d}.txt').touch()
    (vctk / link).unlink()
    (vctk / link).symlink_to(target)
  good, bad = read(vctk, contained=True)
  assert not good
  problems = {u.id: (u.field, u.reason) for u in bad}
  assert problems['s5_001'][0] == 'text' and 'no txt/s5/s5_001.txt' in str(problems)
  assert problems['p225_002'] == ('text', 'txt/p225/p225_002.txt: text is not UTF-8')
  assert 'over 10000 bytes' in problems['p225_010'][1]
  for id in ('s5_003', 's5_004'):
    assert problems[id][0] == 'file' and 'outside' in problems[id][1]


def test_another_folder_is_not_vctk(vctk):
  with pytest.raises(NotADirectoryError, match='txt: has no folder wav48_silence'):
    read(vctk / 'txt')
