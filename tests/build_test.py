# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acl_jax import build
from acl_jax.models.adapters import StrideAdapter
from acl_jax.models.ctc import CTCAdapter
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.models.spelling import token_letters
from acl_jax.text.templates import Audio, Turn
from acl_jax.weights.adapter import save_adapter
from tests.tiny_world import load_config

VOCABULARY = (7, 2, 9)


@pytest.fixture
def config(tiny_world):
  return load_config(tiny_world)


@pytest.fixture
def trained(config, tmp_path):
  """A workdir with an adapter in it."""
  adapter = build.new_adapter(config, 12, 24, VOCABULARY, str)
  save_adapter(tmp_path / build.ADAPTER_FILE, adapter)
  return tmp_path


def test_prompts_are_segments(config):
  text = build.load_text_frontend(config)
  (ids,) = text.prompt('yes')
  assert text.tokenizer.decode(ids).endswith('user\nyes\nassistant\n')
  before, clip, after = text.spoken()
  assert clip == 0 and text.prompt((Audio(0),)) == [before, clip, after]
  assert ids[: len(before)] == before and ids[-len(after) :] == after
  turns = [
    Turn('user', ('a', Audio(0))),
    Turn('assistant', 'b'),
    Turn('user', (Audio(1),)),
  ]
  segments = text.converse(turns)
  assert [s for s in segments if isinstance(s, int)] == [0, 1]


def test_the_llm_has_the_dtype_of_the_config(config):
  for dtype in ('float32', 'bfloat16'):
    config.llama.dtype = dtype
    llama = build.load_frozen_llama(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(llama)} == {jnp.dtype(dtype)}
  config.llama.dtype = 'int8'
  llama = build.load_frozen_llama(config)
  assert {str(leaf.dtype) for leaf in jax.tree.leaves(llama)} == {'int8', 'bfloat16'}
  assert llama.dtype == jnp.bfloat16


def test_new_adapters(config):
  ctc = build.new_adapter(config, 12, 24, VOCABULARY, str)
  assert isinstance(ctc, CTCAdapter) and ctc.vocabulary[...].tolist() == list(
    VOCABULARY
  )
  np.testing.assert_array_equal(
    ctc.spelling.letters[...], token_letters(['7', '2', '9'])
  )
  assert (ctc.config.encoder_size, ctc.config.llm_size) == (12, 24)
  again = build.new_adapter(config, 12, 24, VOCABULARY, str)
  jax.tree.map(np.testing.assert_array_equal, ctc, again)
  config.adapter = dict(kind='stride', stack=3, hidden_size=None)
  stride = build.new_adapter(config, 12, 24, VOCABULARY, str)
  assert isinstance(stride, StrideAdapter) and stride.linear.shape == (36, 24)


@pytest.mark.parametrize(
  'key, message',
  [
    ('adapter.kind', "config.adapter.kind is 'x'; known: ctc, stride"),
    ('encoder.kind', "config.encoder.kind is 'x'; known: conformer, whisper"),
    ('template', "no chat template 'x'"),
  ],
)
def test_unknown_kinds_are_refused(tiny_world, key, message):
  config = load_config(tiny_world, **{key: 'x'})
  with pytest.raises(ValueError, match=message):
    build.load_text_frontend(config)
    build.load_encoder(config)
    build.new_adapter(config, 12, 24, VOCABULARY, str)


def test_a_checkpoint_is_a_workdir_or_a_file_or_the_one_shipped(
  config, trained, monkeypatch
):
  path = trained / build.ADAPTER_FILE
  assert build.find_adapter(config, str(trained)) == path
  assert build.find_adapter(config, str(path)) == path
  monkeypatch.setattr(build, 'SHIPPED', trained)
  config.shipped_adapter = 'adapter'
  assert build.find_adapter(config, None) == path


def test_a_missing_checkpoint_is_named(config, tmp_path):
  with pytest.raises(FileNotFoundError, match=f'{tmp_path}/adapter.safetensors; train'):
    build.find_adapter(config, str(tmp_path))
  with pytest.raises(FileNotFoundError, match='none.safetensors; train one or give'):
    build.find_adapter(config, None)


def test_the_whole_model(config, trained):
  model = build.load_model(config, str(trained))
  assert isinstance(model, SpeechLLM)
  log_mel, valid = jnp.zeros((2, 30, 80)), jnp.ones((2, 30), bool)
  embeddings, _ = jax.eval_shape(SpeechLLM.hear, model, log_mel, valid)
  assert embeddings.shape == (2, 8, 24)


@pytest.mark.parametrize(
  'sizes, vocabulary, message',
  [
    ((13, 24), VOCABULARY, 'joins widths 13 and 24; the encoder .* have 12 and 24'),
    ((12, 25), VOCABULARY, 'joins widths 12 and 25'),
    ((12, 24), (7, 5000), 'the adapter writes token 5000; the LLM has'),
  ],
)
def test_an_adapter_of_other_models_is_refused(
  config, tmp_path, sizes, vocabulary, message
):
  path = tmp_path / 'a.safetensors'
  save_adapter(path, build.new_adapter(config, *sizes, vocabulary, str))
  with pytest.raises(ValueError, match=message):
    build.load_model(config, str(path))
