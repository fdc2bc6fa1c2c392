# SPDX-License-Identifier: Apache-2.0
"""`--check`, and the shipped adapter on real speech."""

import pytest

from acl_jax import build
from acl_jax.evaluation import hearing
from acl_jax.evaluation.rows import Case
from acl_jax.export import Options, export
from acl_jax.exporting import check
from configs import smol


def test_the_shipped_adapter_hears_the_same_in_torch(tmp_path, monkeypatch):
  config, folder = smol.get_config(), tmp_path / 'smol_export'
  export(config, folder, None, Options(llm='include'))
  text, model = build.load_text_frontend(config), build.load_model(config)
  (spoken,), _ = check._read([str(check.SHIPPED.parent / 'audio/hello-world.ogg')])
  heard, _ = hearing.encode_utterances(model, None, [spoken], lambda count: None)
  response = tuple(text.tokenizer.encode('Hello, how can I help?'))
  case = Case(text.spoken(), heard[spoken.id].clip, response)
  ((_, logits),) = check._logits(model, [case])
  sound = hearing.read_audio(model, spoken)
  monkeypatch.setattr(check, 'MAX_NEW_TOKENS', 1)
  found = {}
  for dtype in ('float32', 'bfloat16'):
    exported, processor = check.load(folder, dtype)
    theirs = check.run(exported, processor, sound, response)
    found[dtype] = check._compare(hearing.log_mel(model, sound), case, logits, theirs)
    assert theirs['answer'] == [logits[0].argmax()]
  assert found['float32'].log_mel < 1e-4
  assert found['float32'].embeddings < 1e-5
  assert found['float32'].kl < 1e-8 and found['float32'].agreement == 1
  assert found['bfloat16'].kl < 0.015


def test_another_model_is_seen(letters, tiny_world, tmp_path):
  from tests.exporting.conftest import make

  other = make(tiny_world, tmp_path, 'letterless')
  sound = str(tiny_world / 'corpus/3.flac')
  same = check.check(letters.config, letters.folder, str(letters.workdir), [sound])
  assert same[0].logits < 1e-4 and same[0].embeddings < 1e-5
  found = check.check(letters.config, other.folder, str(letters.workdir), [sound])
  assert found[0].embeddings > 0.01


def test_what_cannot_be_used_is_told(letters, tiny_world, tmp_path, capsys):
  manifest = tmp_path / 'clips.jsonl'
  escapes = '{"audio_filepath": "../elsewhere.wav", "text": "hello"}\n'
  manifest.write_text(escapes)
  paths = letters.config, letters.folder, str(letters.workdir)
  with pytest.raises(ValueError, match='none can be used; the first: .* is outside'):
    check.check(*paths, [str(manifest)])
  assert check.check(*paths, [str(manifest), str(tiny_world / 'corpus/3.flac')])
  assert 'skipped: 1, the first: clips.jsonl:1' in capsys.readouterr().out
