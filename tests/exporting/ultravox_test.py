# SPDX-License-Identifier: Apache-2.0
"""Folders of an Ultravox: what vLLM reads of them, what is refused, and the check."""

import json

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from acl_jax.export import Options, export
from acl_jax.exporting import check_ultravox
from acl_jax.weights import safetensors
from tests.exporting.conftest import noise_clips
from tests.weights import meta_test

ULTRAVOX = Options(llm='include', format='ultravox')


@pytest.fixture(scope='module')
def folder(export_kind, tmp_path_factory):
  """An exported Ultravox; it is not to be written to."""
  config, workdir, _ = export_kind('swiglu')
  output = tmp_path_factory.mktemp('ultravox') / 'ultravox_export'
  export(config, output, str(workdir), ULTRAVOX)
  return output


@pytest.fixture(scope='module')
def processor(folder):
  from transformers import AutoProcessor

  return AutoProcessor.from_pretrained(folder, trust_remote_code=True)


def test_folder_has_the_keys_and_names_of_an_ultravox(folder):
  check_ultravox.check_readable(folder)
  config = json.loads((folder / 'config.json').read_text())
  assert config['architectures'] == ['UltravoxModel']
  assert config['model_type'] == 'ultravox'
  assert config['hidden_size'] == 14 and config['stack_factor'] == 3
  assert config['audio_model_id'] is None and 'text_model_id' not in config
  shapes = {name: t.shape for name, t in safetensors.read(folder).items()}
  projector = {k: v for k, v in shapes.items() if k.startswith('multi_modal_projector')}
  assert projector == {
    'multi_modal_projector.ln_pre.weight': (36,),
    'multi_modal_projector.linear_1.weight': (14, 36),
    'multi_modal_projector.ln_mid.weight': (7,),
    'multi_modal_projector.linear_2.weight': (24, 7),
  }
  assert 'audio_tower.layers.0.self_attn.k_proj.weight' in shapes
  assert 'language_model.model.embed_tokens.weight' in shapes


def test_processor_answers_as_the_engine_calls_it(processor):
  assert isinstance(processor.audio_processor, WhisperFeatureExtractor)
  clips = noise_clips(3_000, 9_000)
  called = processor(
    text='<|audio|>' * 2,
    audios=clips,
    sampling_rate=16_000,
    include_audio_num_chunks=True,
  )
  ours = processor('<|audio|>' * 2, audio=clips)
  torch.testing.assert_close(called['audio_values'], ours['audio_values'])
  assert called['audio_num_chunks'].tolist() == [1, 1]
  positions = (called['input_ids'] == processor.tokenizer.vocab_size).sum()
  assert called['audio_token_len'].sum() == positions


def test_clip_that_the_engine_reserves_memory_with_is_accepted(processor):
  extractor = processor.audio_processor
  longest = np.zeros(16 * extractor.chunk_length * 16_000, np.float32)
  called = processor('<|audio|>', audios=[longest], include_audio_num_chunks=True)
  windows = called['audio_num_chunks'].item()
  assert windows == len(called['audio_lens']) > 1
  ours = processor('<|audio|>', audio=longest)  # of which nothing is heard
  assert 'audio_lens' not in ours


@pytest.mark.parametrize(
  ('kind', 'message'),
  [
    ('ctc', r'adapter is of kind ctc.*use --format=transformers.*acl_jax_vllm'),
    ('attention', r'adapter is of kind attention.*use --format=transformers'),
    ('linear', r'one linear map.*config\.adapter\.hidden_size'),
    ('conformer', r'encoder is a conformer.*Whisper.*use --format=transformers'),
  ],
)
def test_what_an_ultravox_cannot_express_is_refused(
  export_kind, tmp_path, kind, message
):
  config, workdir, _ = export_kind(kind)
  with pytest.raises(ValueError, match=message):
    export(config, tmp_path / 'out', str(workdir), ULTRAVOX)
  assert not (tmp_path / 'out').exists()


def test_llm_that_the_engine_cannot_load_must_be_included(export_kind, tmp_path):
  from tests.tiny_world import change

  config, workdir, _ = export_kind('swiglu')
  (tmp_path / 'meta').mkdir()
  meta_test.write(tmp_path / 'meta')
  config = change(config, **{'llama.path': str(tmp_path / 'meta')})
  with pytest.raises(ValueError, match='--llm=include'):
    export(config, tmp_path / 'out', str(workdir), Options(format='ultravox'))


def test_llm_alone_is_refused(export_kind, tmp_path):
  config, workdir, _ = export_kind('swiglu')
  options = Options(llm='alone', format='ultravox')
  with pytest.raises(ValueError, match='--llm=alone .*transformers or gguf only'):
    export(config, tmp_path / 'out', str(workdir), options)
  with pytest.raises(ValueError, match="--format is 'onnx'; choose from"):
    Options(format='onnx')


def test_check_compares_and_names_the_engine(
  export_kind, folder, tiny_world, capsys, monkeypatch
):
  config, workdir, other = export_kind('swiglu')
  audio = [str(tiny_world / 'corpus/3.flac')]
  monkeypatch.setattr(check_ultravox, 'PACKAGES', ('numpy',))
  [same] = check_ultravox.check_export(config, folder, str(workdir), audio)
  assert same.logits < 1e-4 and same.embeddings < 1e-5
  output = capsys.readouterr().out
  assert f'vLLM {check_ultravox.TESTED_VERSION}' in output
  assert f'here it is {np.__version__}' in output
  with pytest.raises(ValueError, match=r'audio_chat_llama.*--format=ultravox'):
    check_ultravox.check_export(config, other, str(workdir), audio)
