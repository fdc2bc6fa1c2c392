# SPDX-License-Identifier: Apache-2.0
"""Every experiment can be read, says how to run it, and is as large as it says."""

import importlib.util
from pathlib import Path

import jax
import pytest
from flax import nnx

from acl_jax import build
from acl_jax.models import llama
from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.conformer import Conformer, ConformerConfig
from acl_jax.models.conformer_ctc import ConformerCTC
from acl_jax.models.ctc import CTCAdapterConfig
from acl_jax.text.templates import get_template
from data_pipeline.augment import Augmentation, Masking

FOLDER = Path(__file__).parent.parent / 'configs'
NAMES = sorted(path.stem for path in FOLDER.glob('*.py'))
PRETRAINING = [name for name in NAMES if 'ctc' in name]
TRAINING = [name for name in NAMES if 'ctc' not in name]


def read(name):
  spec = importlib.util.spec_from_file_location(name, FOLDER / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module, module.get_config()


def count(make):
  params = nnx.state(jax.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param)
  return sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize('name', NAMES)
def test_the_docstring_says_how_and_what_to_expect(name):
  module, config = read(name)
  assert f'{name}.' in module.__doc__ or f'make {name}' in module.__doc__
  assert config.is_locked and config.seed == 0
  said = ' '.join(module.__doc__.split()).lower()
  assert any(words in said for words in ('not run', 'minutes', ' min'))


@pytest.mark.parametrize('name', NAMES)
def test_what_it_does_to_recordings_is_known(name):
  _, config = read(name)
  how = build.augmentation_config(config)
  assert isinstance(how.augmentation, Augmentation | None)
  assert isinstance(how.masking, Masking | None)
  longest = config.data.row_frames or max(config.data.buckets)
  assert longest <= config.ctc.get('frames_per_batch', 1 << 30)


@pytest.mark.parametrize('name', TRAINING)
def test_adapters_and_templates_are_known(name):
  _, config = read(name)
  get_template(config.template)
  sizes = dict(config.adapter, encoder_size=24, llm_size=16)
  kind = sizes.pop('kind')
  if kind == 'ctc':
    CTCAdapterConfig(**sizes, vocabulary_size=3)
  else:
    StrideAdapter(StrideAdapterConfig(**sizes), rngs=nnx.Rngs(0))
  longest = config.data.row_frames or max(config.data.buckets)
  assert longest <= config.response.frames_per_batch


@pytest.mark.parametrize(
  'name, expected',
  [
    ('llama2_7b_mls', 6_738_415_616),
    ('llama2_7b_parakeet', 6_738_415_616),
    ('llama2_13b_mls', 13_015_864_320),
    ('llama2_70b_mls', 68_976_648_192),
  ],
)
def test_golden_parameter_counts_of_the_llms(name, expected):
  _, config = read(name)
  sizes = llama.LlamaConfig(**config.llama.sizes)
  assert count(lambda rngs: llama.Llama(sizes, rngs=rngs)) == expected


@pytest.mark.parametrize('name', PRETRAINING)
def test_encoders_to_pretrain_are_as_large_as_they_say(name):
  _, config = read(name)
  sizes = ConformerConfig(**config.encoder.sizes)
  classes = config.vocabulary_size + 1
  # As Transformers counts the same sizes.
  expected = {'ctc_mls': 115_863_005, 'smol_ctc': 4_135_985}[name]
  assert count(lambda rngs: ConformerCTC(sizes, classes, rngs=rngs)) == expected


@pytest.mark.parametrize('name', ['llama2_7b_mls', 'llama2_13b_mls', 'llama2_70b_mls'])
def test_the_encoder_is_the_one_that_was_pretrained(name):
  sizes = [dict(read(n)[1].encoder.sizes) for n in (name, 'ctc_mls')]
  assert sizes[0] == sizes[1]
  _, config = read(name)
  encoder = count(
    lambda rngs: Conformer(ConformerConfig(**config.encoder.sizes), rngs=rngs)
  )
  width, stack = config.llama.sizes.hidden_size, config.adapter.stack
  adapter = StrideAdapterConfig(stack, 512, config.adapter.hidden_size, width)
  assert encoder == 115_092_992
  assert count(lambda rngs: StrideAdapter(adapter, rngs=rngs)) == stack * 512 * width


def test_sizes_that_disagree_with_the_files_are_refused(tiny_world):
  from tests.tiny_world import load_config

  config = load_config(tiny_world)
  config.llama.sizes = dict(num_hidden_layers=3)
  config.encoder.sizes = dict(d_model=16)
  with pytest.raises(
    ValueError, match='llama.sizes.num_hidden_layers is 3, that of .* is 2'
  ):
    build.load_frozen_llama(config)
  with pytest.raises(ValueError, match='encoder.sizes.d_model is 16, that of .* is 12'):
    build.load_encoder(config)
