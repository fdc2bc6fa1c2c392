# SPDX-License-Identifier: Apache-2.0
"""`--check`, and the shipped adapter on recorded speech."""

import pytest

from acl_jax import build
from acl_jax.config.experiment import parse_train
from acl_jax.evaluation import encoding
from acl_jax.evaluation.prompt_batches import PromptCase
from acl_jax.export import Options, export
from acl_jax.exporting import check
from configs import smol
from data_pipeline.corpora.utterance import Utterance


@pytest.mark.full
def test_shipped_adapter_equals_its_export(tmp_path, monkeypatch):
  # One row a batch and one generated token: the results do not depend on them.
  monkeypatch.setattr(encoding, 'FRAMES_PER_BATCH', encoding.LENGTH_MULTIPLE)
  monkeypatch.setattr(check, 'MAX_ROWS', 1)
  monkeypatch.setattr(check, 'MAX_NEW_TOKENS', 1)
  config, folder = parse_train(smol.get_config()), tmp_path / 'smol_export'
  export(config, folder, None, Options(llm='include'))
  text = build.load_text_frontend(config.llama, config.template)
  model = build.load_model(config, build.find_checkpoint(None, config.shipped_adapter))
  path = check.SHIPPED_MANIFEST.parent / 'audio/hello-world.ogg'
  utterance = Utterance(id='hello', audio_filepath=path, text='')
  encoded, _ = encoding.encode_utterances(model, None, [utterance], lambda count: None)
  response = tuple(text.tokenizer.encode('Hello, how can I help?'))
  case = PromptCase(text.audio_prompt(), [encoded['hello'].clip], response)
  ((_, logits),) = check.response_logits(model, [case])
  waveform = encoding.read_audio(model, utterance)
  log_mel = encoding.compute_log_mel(model, waveform)
  differences = {}
  for dtype in ('float32', 'bfloat16'):
    exported, processor = check.load_exported(folder, dtype)
    theirs = check.run_exported(exported, processor, waveform, response)
    differences[dtype] = check.compare_outputs(log_mel, case, logits, theirs)
    assert theirs['response'] == [logits[0].argmax()]
  assert differences['float32'].log_mel < 1e-4
  assert differences['float32'].embeddings < 1e-5
  assert differences['float32'].kl < 1e-8 and differences['float32'].agreement == 1
  assert differences['bfloat16'].kl < 0.015


@pytest.fixture
def bad_manifest(tmp_path):
  """A manifest whose only utterance is outside its folder."""
  path = tmp_path / 'clips.jsonl'
  path.write_text('{"audio_filepath": "../elsewhere.wav", "text": "hello"}\n')
  return str(path)


@pytest.mark.full
def test_check_tells_models_apart(export_kind, tiny_world, bad_manifest, capsys):
  config, workdir, folder = export_kind('ctc')
  path = str(tiny_world / 'corpus/3.flac')
  [same] = check.check_export(config, folder, str(workdir), [bad_manifest, path])
  assert same.logits < 1e-4 and same.embeddings < 1e-5
  output = capsys.readouterr().out
  assert 'skipped: 1' in output and 'clips.jsonl:1' in output
  _, _, other = export_kind('ctc_without_letters')
  [different] = check.check_export(config, other, str(workdir), [path])
  assert different.embeddings > 0.01


def test_check_without_usable_audio_raises(exported_ctc, bad_manifest):
  config, workdir, folder = exported_ctc
  with pytest.raises(ValueError, match=r'--audio: .*elsewhere\.wav'):
    check.check_export(config, folder, str(workdir), [bad_manifest])
