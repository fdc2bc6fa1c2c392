# SPDX-License-Identifier: Apache-2.0
import io
import json
import os
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import audio
from data_pipeline.corpora import BadUtterance, Utterance, open_corpus, tarred
from data_pipeline.prepare import Settings, prepare


def lines_of(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(folder, lines, name='tarred_audio_manifest.json'):
  (folder / name).write_text(''.join(json.dumps(line) + '\n' for line in lines))


@pytest.fixture
def tarred_corpus(corpus, tmp_path):
  """The corpus in three tars as by NeMo: flattened names and a `shard_id`."""
  folder, lines = tmp_path / 'tarred', []
  folder.mkdir()
  for shard in range(3):
    with tarfile.open(folder / f'audio_{shard}.tar', 'w') as tar:
      for i, line in enumerate(lines_of(corpus)):
        name = line['audio_filepath'].replace('/', '_')
        lines.append(line | {'audio_filepath': name, 'shard_id': shard})
        if i % 3 == shard:
          tar.add(corpus.parent / line['audio_filepath'], arcname=name)
        else:
          lines.pop()
  write_lines(folder, sorted(lines, key=lambda line: line['id']))
  return folder


def read(path, contained=False):
  """(utterances by id, bad utterances) of a corpus."""
  utterances = list(open_corpus('nemo_tarred', path, contained))
  good = {u.id: u for u in utterances if isinstance(u, Utterance)}
  return good, [u for u in utterances if isinstance(u, BadUtterance)]


def write_tar(path, *members):
  """Write a tar of (TarInfo, content) in this order."""
  with tarfile.open(path, 'w') as tar:
    for member, content in members:
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))


def test_spans_of_the_audio_files(corpus, tarred_corpus):
  good, bad = read(tarred_corpus)
  assert not bad and list(good) == [f'u{i}' for i in range(7)]
  for i, utterance in enumerate(good.values()):
    path, (offset, size) = utterance.audio_filepath, utterance.span
    assert path == tarred_corpus / f'audio_{i % 3}.tar'
    plain = corpus.parent / f'audio/{i}.flac'
    assert path.read_bytes()[offset : offset + size] == plain.read_bytes()
    np.testing.assert_array_equal(
      audio.read(path, span=utterance.span), audio.read(plain)
    )
  assert (good['u3'].text, good['u3'].speaker) == ('Grüße 3', 'anna')


def test_records_equal_those_of_the_plain_corpus(corpus, tarred_corpus, tmp_path):
  settings = Settings(shard_size=3)
  for kind, path in (('manifest', corpus), ('nemo_tarred', tarred_corpus)):
    prepare(kind, path, tmp_path / 'out' / kind, settings=settings)
  for path in sorted((tmp_path / 'out/manifest').glob('*.*')):
    assert path.read_bytes() == (tmp_path / 'out/nemo_tarred' / path.name).read_bytes()


def test_changed_spans_are_detected(tarred_corpus, tmp_path):
  prepare('nemo_tarred', tarred_corpus, tmp_path / 'out')
  prepare('nemo_tarred', tarred_corpus, tmp_path / 'out')  # is reused
  path = tarred_corpus / 'audio_0.tar'
  date = path.stat().st_mtime_ns
  with tarfile.open(path) as tar:
    members = [(member, tar.extractfile(member).read()) for member in tar]
  write_tar(path, *members[::-1])  # the same size, and date
  os.utime(path, ns=(date, date))
  with pytest.raises(ValueError, match='data-00000-of-00001.array_record: .*tarred'):
    prepare('nemo_tarred', tarred_corpus, tmp_path / 'out')


def test_original_and_flattened_names(tmp_path):
  members = [
    (tarfile.TarInfo(name), name.encode()) for name in ('a/b.wav', 'c_d_e.wav')
  ]
  write_tar(tmp_path / 'audio_0.tar', *members)
  lines = [{'audio_filepath': n, 'text': ''} for n in ('a/b.wav', 'c/d.e.wav', 'c/d')]
  write_lines(tmp_path, lines, 'any.jsonl')
  good, (bad,) = read(tmp_path)
  assert [u.span for u in good.values()] == [(512, 7), (1536, 9)]
  assert list(good) == ['a/b', 'c/d.e'] and "'c/d' " in bad.reason


def test_same_name_in_two_tars(tmp_path):
  for shard in range(2):
    content = b'x' * (shard + 1)
    write_tar(tmp_path / f'audio_{shard}.tar', (tarfile.TarInfo('a.wav'), content))
  line = {'audio_filepath': 'a.wav', 'text': 'hi'}
  ids = [{'id': str(i), 'shard_id': i} for i in (0, 1)] + [{'id': 'any'}]
  write_lines(tmp_path, [line | other for other in ids])
  good, _ = read(tmp_path)
  assert [u.span[1] for u in good.values()] == [1, 2, 1]


BAD_LINES = [
  (
    {'audio_filepath': 'a.wav', 'shard_id': None},
    'audio_filepath',
    "'a.wav' is in no tar",
  ),
  ({'audio_filepath': 'a.wav'}, 'audio_filepath', "'a.wav' is not in audio_0.tar"),
  ({'audio_filepath': ''}, 'audio_filepath', "'' is not in audio_0.tar"),
  ({'audio_filepath': '../x' * 99}, 'audio_filepath', 'is not in audio_0.tar'),
  ({'shard_id': 1}, 'audio_filepath', 'is not in audio_1.tar'),
  ({'shard_id': 7}, 'shard_id', 'is 7'),
  ({'shard_id': '0'}, 'shard_id', "is '0'"),
  ({'shard_id': True}, 'shard_id', 'is True'),
  ({'shard_id': {'a': []}}, 'shard_id', 'is {'),
  ({'offset': -1.5}, 'offset', 'is -1.5'),
  ({'offset': 1.5, 'duration': None}, 'duration', 'is missing'),
  ({'text': None}, 'text', 'is missing'),
]


@pytest.mark.parametrize('change, field, problem', BAD_LINES)
def test_bad_line_is_yielded_as_a_bad_utterance(tarred_corpus, change, field, problem):
  path = tarred_corpus / 'tarred_audio_manifest.json'
  first, *others = lines_of(path)
  write_lines(tarred_corpus, [first | change, *others])
  good, (bad,) = read(tarred_corpus)
  assert len(good) == 6 and bad.field == field and problem in bad.reason
  assert bad.reason.startswith(f'{path} line 1: {field} ') and len(bad.reason) < 400


def test_links_devices_and_sparse_files_are_ignored(tmp_path):
  members = []
  for kind in (b'1', b'2', b'3', b'4', b'5', b'6', b'S', b'x1'):
    member = tarfile.TarInfo(f'{kind.decode()}.wav')
    member.type, member.linkname = kind[:1], 'real.wav'
    if kind == b'x1':  # the newer format of sparse files
      member.type, member.pax_headers = b'0', {'GNU.sparse.size': '9'}
      member.pax_headers |= {'GNU.sparse.map': '0,1', 'GNU.sparse.name': 'x1.wav'}
    members.append((member, b''))
  write_tar(tmp_path / 'audio_0.tar', *members, (tarfile.TarInfo('real.wav'), b'yes'))
  names = [member.name for member, _ in members] + ['real.wav']
  write_lines(tmp_path, [{'audio_filepath': name, 'text': 'hi'} for name in names])
  good, bad = read(tmp_path)
  assert list(good) == ['real'] and len(bad) == 8
  assert {u.field for u in bad} == {'audio_filepath'}


@pytest.mark.parametrize('cut', ['data', 'header', 'end', 'all', 'zip', 'link', 'pipe'])
def test_damaged_tar_loses_only_its_own_utterances(tarred_corpus, cut):
  path = tarred_corpus / 'audio_0.tar'
  good, _ = read(tarred_corpus)
  offset, size = good['u6'].span
  match cut:
    case 'data':
      os.truncate(path, offset + size - 1)
    case 'header':
      os.truncate(path, offset - 100)
    case 'end':  # exactly between two files
      os.truncate(path, offset - 512)
    case 'all':
      os.truncate(path, 0)
    case 'zip':
      path.write_bytes(b'\x1f\x8b' + bytes(9_999))
    case 'link':
      path.rename(tarred_corpus.parent / 'elsewhere.tar')
      path.symlink_to(tarred_corpus.parent / 'elsewhere.tar')
    case 'pipe':
      path.unlink()
      os.mkfifo(path)
  lost = ['u6'] if cut in ('data', 'header', 'end') else ['u0', 'u3', 'u6']
  if cut == 'link':
    assert [*read(tarred_corpus)[0]] == [*good]
  remaining, bad = read(tarred_corpus, contained=cut == 'link')
  assert remaining == {id: u for id, u in good.items() if id not in lost}
  assert len(bad) == len(lost)
  assert all(' audio_0.tar (audio_0.tar: ' in utterance.reason for utterance in bad)


def with_checksum(block):
  """Return a header with the correct checksum."""
  total = 256 + sum(block[:148]) + sum(block[156:])
  return block[:148] + f'{total:06o}\0 '.encode() + block[156:]


def header(kind, size, name='x.wav'):
  member = tarfile.TarInfo(name)
  member.type, member.size = kind, size
  return member.tobuf(tarfile.GNU_FORMAT)


MALICIOUS = [
  header(b'0', -1024),  # leads back to itself
  header(b'0', 2**70),
  header(b'L', 2**30) + bytes(2**12),
  header(b'L', -512),
  header(b'x', 2**30),
  header(b'x', 12) + b'12 size=-99\n'.ljust(512, b'\0') + header(b'0', 0),
  (header(b'L', 1) + b'a'.ljust(512, b'\0')) * 2_000,
  with_checksum(header(b'S', 0)[:482] + b'\1' * 30),  # continues in a missing block
  header(b'g', 3) + b'\xff= '.ljust(512, b'\0'),
]


@pytest.mark.parametrize('blocks', MALICIOUS)
def test_malicious_tar_neither_hangs_nor_crashes(tarred_corpus, blocks):
  path = tarred_corpus / 'audio_3.tar'
  path.write_bytes(blocks)
  with (tarred_corpus / 'tarred_audio_manifest.json').open('a') as file:
    file.write('{"audio_filepath": "x.wav", "text": "hi", "shard_id": 3}\n')
  good, (bad,) = read(tarred_corpus)
  assert len(good) == 7 and '(audio_3.tar: ' in bad.reason and len(bad.reason) < 500


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2_047), st.integers(0, 255)), max_size=20))
def test_arbitrary_damage_does_not_raise(tmp_path_factory, changes):
  path = tmp_path_factory.getbasetemp() / 'audio_0.tar'
  member = tarfile.TarInfo('n' * 120 + '.wav')
  with tarfile.open(path, 'w', format=tarfile.PAX_FORMAT) as tar:
    tar.addfile(member)
  data = bytearray(path.read_bytes())
  for position, value in changes:
    data[position] = value
  for start in (0, 1024):  # the headers, with correct checksums
    data[start : start + 512] = with_checksum(data[start : start + 512])
  path.write_bytes(data)
  (path.parent / 'tarred_audio_manifest.json').write_text('')
  assert not list(tarred.read(path.parent))


def test_size_of_a_span_is_limited(tarred_corpus):
  path = tarred_corpus / 'audio_0.tar'
  with pytest.raises(audio.AudioError, match=r'size .*\b1000 bytes'):
    audio.read(path, span=(512, 2**62), limits=audio.Limits(encoded_bytes=1_000))
  end = path.stat().st_size
  with pytest.raises(audio.AudioError, match=r'content .*\b2 of 99 bytes'):
    audio.read(path, span=(end - 2, 99))


def test_paths_that_are_not_a_corpus(tmp_path):
  with pytest.raises(ValueError, match=r'tarred_audio_manifest.json\b.*\b0 other'):
    list(open_corpus('nemo_tarred', tmp_path))
  for name in 'ab':
    (tmp_path / f'{name}.json').touch()
  with pytest.raises(ValueError, match=r'\b2 other'):
    list(open_corpus('nemo_tarred', tmp_path))
  (tmp_path / 'a.txt').touch()
  with pytest.raises(ValueError, match='a.txt'):
    list(open_corpus('nemo_tarred', tmp_path / 'a.txt'))
