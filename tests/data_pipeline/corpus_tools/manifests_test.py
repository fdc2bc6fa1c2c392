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
