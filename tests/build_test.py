# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acl_jax import build, build_adapter, checkpoints
from acl_jax.models.adapters import StrideAdapter
from acl_jax.models.ctc import CTCAdapter
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.models.spelling import token_letters
from acl_jax.text.templates import Audio, Turn
from acl_jax.weights.adapter import save_adapter
from tests.tiny_world import change, load_config

VOCABULARY = (7, 2, 9)


def new_adapter(config, sizes=(12, 24), vocabulary=VOCABULARY):
  return build_adapter.new_adapter(config.adapter, config.seed, *sizes, vocabulary, str)


@pytest.fixture
def config(tiny_world):
  return load_config(tiny_world)


@pytest.fixture
def workdir(config, tmp_path):
  """A workdir with an adapter."""
  adapter = new_adapter(config)
  save_adapter(tmp_path / build.ADAPTER_FILE, adapter)
  return tmp_path


def test_prompts_are_sequences_of_segments(config):
  text = build.load_text_frontend(config.llama, config.template)
  (ids,) = text.prompt('yes')
  assert text.tokenizer.decode(ids).endswith('user\nyes\nassistant\n')
  before, clip, after = text.audio_prompt()
  assert clip == 0 and text.prompt((Audio(0),)) == [before, clip, after]
  assert ids[: len(before)] == before and ids[-len(after) :] == after
  turns = [
    Turn('user', ('a', Audio(0))),
    Turn('assistant', 'b'),
    Turn('user', (Audio(1),)),
  ]
  segments = text.conversation_prompt(turns)
  assert [s for s in segments if isinstance(s, int)] == [0, 1]


def test_texts_beyond_the_embedding_are_refused(tiny_world, tmp_path):
  folder = tmp_path / 'llama'
  shutil.copytree(tiny_world / 'llama', folder)
  config = load_config(tiny_world, **{'llama.path': str(folder)})
  path = folder / 'tokenizer.json'
  spec = json.loads(path.read_text())
  rows = build.load_frozen_llama(config.llama).config.vocab_size
  tools = [
    {'id': rows + i, 'content': f'<tool{i}>', 'special': False} for i in range(2)
  ]
  others = dict.fromkeys(('single_word', 'lstrip', 'rstrip', 'normalized'), False)
  tools = [tool | others for tool in tools]
  path.write_text(json.dumps(spec | {'added_tokens': [*spec['added_tokens'], *tools]}))
  text = build.load_text_frontend(config.llama, config.template)
  assert text.prompt('yes')
  with pytest.raises(ValueError, match=f'the token {rows + 1}; .* of {rows} tokens'):
    text.prompt('yes <tool1>')
  assert max(build_adapter.text_tokens(text.tokenizer)) < rows


def test_the_llm_has_the_dtype_of_the_config(config):
  for dtype in ('float32', 'bfloat16'):
    llm = dataclasses.replace(config.llama, dtype=dtype)
    llama = build.load_frozen_llama(llm)
    assert {leaf.dtype for leaf in jax.tree.leaves(llama)} == {jnp.dtype(dtype)}
  for name, dtypes in (('int8', {'int8'}), ('int4', {'int4', 'int8'})):
    llama = build.load_frozen_llama(dataclasses.replace(config.llama, dtype=name))
    found = {str(leaf.dtype) for leaf in jax.tree.leaves(llama)}
    assert found == {'bfloat16', *dtypes}
    assert llama.dtype == jnp.bfloat16


def test_new_adapters_have_the_sizes_of_the_config(config):
  ctc = new_adapter(config)
  assert isinstance(ctc, CTCAdapter) and ctc.vocabulary[...].tolist() == list(
    VOCABULARY
  )
  np.testing.assert_array_equal(
    ctc.spelling.letters[...], token_letters(['7', '2', '9'])
  )
  assert (ctc.config.encoder_size, ctc.config.llm_size) == (12, 24)
  again = new_adapter(config)
  jax.tree.map(np.testing.assert_array_equal, ctc, again)
  adapter = dict(kind='stride', stack=3, hidden_size=None)
  stride = new_adapter(change(config, adapter=adapter))
  assert isinstance(stride, StrideAdapter) and stride.linear.shape == (36, 24)


@pytest.mark.parametrize(
  'key, message',
  [
    ('adapter.kind', r"config\.adapter\.kind .*'x'.*ctc, stride"),
    ('encoder.kind', r"config\.encoder\.kind .*'x'.*conformer, whisper"),
    ('template', "template .*'x'"),
  ],
)
def test_unknown_kinds_are_refused(tiny_world, key, message):
  with pytest.raises(ValueError, match=message):
    config = load_config(tiny_world, **{key: 'x'})
    build.load_text_frontend(config.llama, config.template)


def test_a_checkpoint_is_a_workdir_a_file_or_the_shipped_adapter(
  config, workdir, monkeypatch
):
  path = workdir / build.ADAPTER_FILE
  assert build.find_checkpoint(workdir) == build.find_checkpoint(path)
  assert build.find_checkpoint(path).adapter == path
  monkeypatch.setattr(checkpoints, 'SHIPPED', workdir.parent)
  assert build.find_checkpoint(None, workdir.name).adapter == path


def test_errors_name_a_missing_checkpoint(config, tmp_path):
  with pytest.raises(FileNotFoundError, match=f'{tmp_path}/adapter.safetensors'):
    build.find_checkpoint(tmp_path)
  with pytest.raises(FileNotFoundError, match=r'none/adapter\.safetensors'):
    build.find_checkpoint(None, config.shipped_adapter)


def test_the_complete_model_encodes_audio(config, workdir):
  model = build.load_model(config, build.find_checkpoint(workdir))
  assert isinstance(model, SpeechLLM)
  log_mel, frame_mask = jnp.zeros((2, 30, 80)), jnp.ones((2, 30), bool)
  embeddings, _ = jax.eval_shape(SpeechLLM.encode_audio, model, log_mel, frame_mask)
  assert embeddings.shape == (2, 8, 24)


@pytest.mark.parametrize(
  'sizes, vocabulary, message',
  [
    ((13, 24), VOCABULARY, r'\b13 and 24\b.* 12 and 24\b'),
    ((12, 25), VOCABULARY, r'\b12 and 25\b'),
    ((12, 24), (7, 5000), r'token 5000\b'),
  ],
)
def test_an_adapter_for_other_models_is_refused(
  config, tmp_path, sizes, vocabulary, message
):
  path = tmp_path / 'a.safetensors'
  save_adapter(path, new_adapter(config, sizes, vocabulary))
  with pytest.raises(ValueError, match=message):
    build.load_model(config, build.find_checkpoint(path))


@pytest.mark.parametrize(('silence', 'frames'), [(None, 29), (13, 13), (0, 0)])
def test_a_trained_encoder_hears_the_silence_of_its_training(
  config, tmp_path, silence, frames
):
  adapter = new_adapter(config)
  save_adapter(tmp_path / build.ADAPTER_FILE, adapter, trailing_silence=silence)
  config = change(config, **{'encoder.trailing_silence': 0.29})
  model = build.load_model(config, build.find_checkpoint(tmp_path))
  assert model.encoder.config.trailing_silence == frames


def test_a_silence_that_is_no_number_is_refused(config, tmp_path):
  path = tmp_path / build.ADAPTER_FILE
  save_adapter(path, new_adapter(config), trailing_silence=-7)
  with pytest.raises(ValueError, match=r"trailing_silence .*'-7'"):
    build.load_model(config, build.find_checkpoint(path))
