# SPDX-License-Identifier: Apache-2.0
import re
import shutil
import sys

import pytest

from acl_jax import assets
from acl_jax.evaluation.cache import ResultCache
from acl_jax.evaluation.cascade import Recogniser, transcribe_utterances
from acl_jax.evaluation.examples import read_manifest


def test_missing_faster_whisper_raises(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'faster_whisper', None)
  with pytest.raises(
    ValueError, match=r"pip install 'acl_jax\[demo\]'.*--cascade=none"
  ):
    Recogniser(tmp_path)


@pytest.mark.full
def test_incomplete_or_damaged_folders_raise(tmp_path):
  pytest.importorskip('faster_whisper')
  for name in ('model.bin', 'config.json'):
    (tmp_path / name).write_text('x')
  with pytest.raises(FileNotFoundError, match=r'tokenizer\.json.*--cascade'):
    Recogniser(tmp_path)
  shutil.copy(assets.resolve('asset:whisper-base') / 'tokenizer.json', tmp_path)
  with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
    Recogniser(tmp_path)


@pytest.mark.full
def test_transcribes_real_speech(activated_waveform):
  pytest.importorskip('faster_whisper')
  recogniser = Recogniser(assets.resolve('asset:whisper-base'))
  assert recogniser(activated_waveform).strip('.').lower() == 'activated'
  assert len(recogniser.sha256) == 64


def test_transcripts_are_cached(manifest, tmp_path):
  calls = []

  class CountingRecogniser(Recogniser):
    def __init__(self):
      pass

    def __call__(self, waveform):
      calls.append(len(waveform))
      return f'{len(waveform)} samples'

  utterances, _ = read_manifest(manifest, None)
  for count, expected_calls in ((2, 2), (5, 5), (5, 5)):
    cache = ResultCache(tmp_path / 'cache.jsonl')
    transcripts = transcribe_utterances(
      CountingRecogniser(), utterances[:count], cache, lambda count: None
    )
    assert transcripts == [f'{4_000 + 3_000 * i} samples' for i in range(count)]
    assert len(calls) == expected_calls


def test_truncated_cache_lines_are_ignored(tmp_path):
  path = tmp_path / 'cache.jsonl'
  cache = ResultCache(path)
  cache['a'], cache['b'] = 1, [2]
  path.write_text(path.read_text()[:-2])
  cache = ResultCache(path)
  assert 'b' not in cache and cache['a'] == 1
  cache['c'] = 'é'
  cache = ResultCache(path)
  assert cache['a'] == 1 and cache['c'] == 'é' and 'b' not in cache
