# SPDX-License-Identifier: Apache-2.0
import shutil
import sys

import pytest

from acl_jax import assets
from acl_jax.evaluation.cache import ResultCache
from acl_jax.evaluation.cascade import Recogniser, transcribe
from acl_jax.evaluation.examples import read_manifest


def test_says_how_to_install_what_is_missing(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'faster_whisper', None)
  with pytest.raises(
    ValueError, match=r"pip install 'acl_jax\[demo\]'.*--cascade=none"
  ):
    Recogniser(tmp_path)


def test_a_folder_without_tokenizer_is_refused(tmp_path):
  pytest.importorskip('faster_whisper')
  for name in ('model.bin', 'config.json'):
    (tmp_path / name).write_text('x')
  with pytest.raises(FileNotFoundError, match=r'no tokenizer\.json'):
    Recogniser(tmp_path)
  shutil.copy(assets.resolve('asset:whisper-base') / 'tokenizer.json', tmp_path)
  with pytest.raises(ValueError, match='cannot be loaded as Whisper'):
    Recogniser(tmp_path)


def test_hears_a_real_recording(recording):
  pytest.importorskip('faster_whisper')
  recogniser = Recogniser(assets.resolve('asset:whisper-base'))
  assert recogniser(recording).strip('.').lower() == 'activated'
  assert len(recogniser.sha256) == 64


def test_what_is_recognised_is_kept(manifest, tmp_path):
  asked = []

  class Counter(Recogniser):
    def __init__(self):
      pass

    def __call__(self, sound):
      asked.append(len(sound))
      return f'{len(sound)} samples'

  utterances, _ = read_manifest(manifest, None)
  for count, times in ((2, 2), (5, 5), (5, 5)):
    cache = ResultCache(tmp_path / 'cache.jsonl')
    written = transcribe(Counter(), utterances[:count], cache, lambda count: None)
    assert written == [f'{4_000 + 3_000 * i} samples' for i in range(count)]
    assert len(asked) == times


def test_a_line_cut_off_is_forgotten(tmp_path):
  path = tmp_path / 'cache.jsonl'
  cache = ResultCache(path)
  cache['a'], cache['b'] = 1, [2]
  path.write_text(path.read_text()[:-2])
  cache = ResultCache(path)
  assert 'b' not in cache and cache['a'] == 1
  cache['c'] = 'é'
  cache = ResultCache(path)
  assert cache['a'] == 1 and cache['c'] == 'é' and 'b' not in cache
