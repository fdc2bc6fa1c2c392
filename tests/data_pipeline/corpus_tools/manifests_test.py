# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from data_pipeline.corpus_tools.manifests import join_manifests


@pytest.fixture
def folders(tmp_path):
  """Folders `a` of two utterances and `b` of one."""
  for name, ids in (('a', ('x', 'y')), ('b', ('x',))):
    (tmp_path / name).mkdir()
    entries = [{'audio_filepath': f'audio/{id}.flac', 'id': id} for id in ids]
    lines = [json.dumps(entry) + '\n' for entry in entries]
    (tmp_path / name / 'manifest.jsonl').write_text(''.join(lines))
  return tmp_path


def test_paths_and_ids_are_prefixed_with_the_folder(folders):
  path = join_manifests(['a', 'b*2'], folders / 'manifest.jsonl')
  assert [json.loads(line) for line in path.read_text().splitlines()] == [
    {'audio_filepath': 'a/audio/x.flac', 'id': 'a-x'},
    {'audio_filepath': 'a/audio/y.flac', 'id': 'a-y'},
    {'audio_filepath': 'b/audio/x.flac', 'id': 'b-x-0'},
    {'audio_filepath': 'b/audio/x.flac', 'id': 'b-x-1'},
  ]


def test_ids_are_optional_and_manifests_may_be_anywhere(tmp_path):
  lines = [
    {'audio_filepath': 'audio/x.flac', 'text': 'one'},
    {'audio_filepath': 'audio/x.flac', 'offset': 1.5, 'duration': 2, 'id': None},
    {'audio_filepath': '/far/y.flac', 'text': 'three'},
  ]
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a/train.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  (tmp_path / 'b').mkdir()
  relative = join_manifests(['a/train.jsonl'], tmp_path / 'm.jsonl')
  absolute = join_manifests([f'{tmp_path}/a/train.jsonl'], tmp_path / 'b/m.jsonl')
  for path, folder in ((relative, 'a'), (absolute, f'{tmp_path}/a')):
    assert [
      (entry['audio_filepath'], entry['id'])
      for entry in map(json.loads, path.read_text().splitlines())
    ] == [
      (f'{folder}/audio/x.flac', 'train-audio/x'),
      (f'{folder}/audio/x.flac', 'train-audio/x-1.500'),
      ('/far/y.flac', 'train-far/y'),
    ]


def test_files_that_differ_in_their_suffix_have_ids_of_their_own(tmp_path):
  names = ['x.flac', 'x.mp3', '~/x.wav']
  lines = [json.dumps({'audio_filepath': name, 'text': 'hi'}) for name in names]
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a/manifest.jsonl').write_text('\n'.join(lines))
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('HOME', '/home/me')
    path = join_manifests(['a'], tmp_path / 'm.jsonl')
  entries = [json.loads(line) for line in path.read_text().splitlines()]
  assert [entry['id'] for entry in entries] == ['a-x', 'a-x.mp3', 'a-home/me/x']
  assert entries[2]['audio_filepath'] == '/home/me/x.wav'
  line = '{"audio_filepath": "x.wav", "text": "hi", "duration": "1.8"}'
  (tmp_path / 'a/manifest.jsonl').write_text(line)
  with pytest.raises(ValueError, match=r"line 1: duration is '1.8', a number in quot"):
    join_manifests(['a'], tmp_path / 'm.jsonl')


def test_lines_without_audio_and_missing_folders_are_rejected(folders):
  with pytest.raises(FileNotFoundError, match='none'):
    join_manifests(['none'], folders / 'manifest.jsonl')
  (folders / 'a/manifest.jsonl').write_text('{"text": "hi"}\n')
  with pytest.raises(
    ValueError, match='a/manifest.jsonl line 1: audio_filepath is mis'
  ):
    join_manifests(['a'], folders / 'manifest.jsonl')


def test_wrong_number_of_copies_is_rejected(folders):
  with pytest.raises(ValueError, match=r"'b\*two'"):
    join_manifests(['b*two'], folders / 'manifest.jsonl')


@pytest.mark.full
def test_program(folders, start_program):
  output = folders / 'manifest.jsonl'
  done = start_program('data_pipeline.join', '--input=a,b', f'--output={output}')
  assert done.returncode == 0, done.stderr
  assert done.stdout == f'join: {output}\n'
  assert len(output.read_text().splitlines()) == 3
