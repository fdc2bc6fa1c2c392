# SPDX-License-Identifier: Apache-2.0
"""Every experiment parses, documents its command, and has the documented sizes."""

import importlib.util
import re
from pathlib import Path

import jax
import pytest
from flax import nnx

from acl_jax import build, build_adapter
from acl_jax.config.experiment import PretrainConfig, TrainConfig, parse_experiment
from acl_jax.models.adapters import StrideAdapter
from acl_jax.models.conformer import Conformer
from acl_jax.models.conformer_ctc import ConformerCTC
from acl_jax.models.llama import Llama
from acl_jax.text.templates import get_template
from acl_jax.tpu.planning import shapes as planning_shapes
from acl_jax.training.step import trainable_filter
from tests.tiny_world import change, load_config

FOLDER = Path(__file__).parent.parent.parent / 'configs'
NAMES = sorted(path.stem for path in FOLDER.glob('[a-z]*.py'))


def load(name):
  """The module of a config file and its `ConfigDict`."""
  spec = importlib.util.spec_from_file_location(name, FOLDER / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module, module.get_config()


def parsed(name):
  return parse_experiment(load(name)[1])


def num_parameters(make):
  params = nnx.state(jax.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param)
  return sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize('name', NAMES)
def test_docstring_has_the_command_and_the_cost(name):
  module, config = load(name)
  assert f'{name}.' in module.__doc__ or f'make {name}' in module.__doc__
  assert config.is_locked and config.seed == 0
  text = ' '.join(module.__doc__.split()).lower()
  assert any(words in text for words in ('not run', 'minutes', ' min'))


@pytest.mark.parametrize('name', NAMES)
def test_config_parses_and_a_batch_holds_the_longest_row(name):
  config = parsed(name)
  assert isinstance(config, PretrainConfig if name == 'smol_ctc' else object)
  stages = [config.ctc]
  if isinstance(config, TrainConfig):
    assert config.template == 'auto' or get_template(config.template)
    if not getattr(config.adapter, 'path', ''):  # else its sizes are in a file
      build_adapter.adapter_sizes(config.adapter, 24, 16, 3)
    stages += config.transcription, config.response
  for stage in filter(None, stages):
    assert config.data.max_frames <= stage.frames_per_batch


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'bable_share': 0.5}, r'augmentation\.bable_share is not a key; .*babble_share'),
    ({'babble_share': 2.0}, r'config\.augmentation: babble_share is 2\.0; the limits'),
    ({'codec_share': 'all'}, r"config\.augmentation\.codec_share = 'all' is not a num"),
  ],
)
def test_augmentation_that_is_misspelt_or_out_of_range(changes, message):
  config = load('smol')[1].to_dict()
  config['augmentation'] |= changes
  with pytest.raises(ValueError, match=message):
    parse_experiment(config)


@pytest.mark.parametrize('name', NAMES)
def test_every_leaf_can_be_set_by_a_flag(name):
  """Only sections may be plain None, whose type ml_collections cannot infer."""
  sections = {
    'sizes',
    'augmentation',
    'masking',
    'ctc',
    'transcription',
    'response',
    'letters',
    'on_policy',
  }

  def check(values, path):
    for key in values:
      value = values[key]
      if hasattr(value, 'get_type'):
        continue
      if hasattr(value, 'keys'):
        check(value, f'{path}.{key}')
      elif value is None and values.get_type(key) is type(None):
        optional = key in sections or (key, path) == ('hidden_size', 'config.adapter')
        assert optional, f'{path}.{key}'

  check(load(name)[1], 'config')


@pytest.mark.parametrize(
  'name, expected',
  [
    ('llama2_7b_mls', 6_738_415_616),
    ('llama2_7b_parakeet', 6_738_415_616),
    ('llama2_13b_mls', 13_015_864_320),
    ('llama2_70b_mls', 68_976_648_192),
    ('llama31_8b', 8_030_261_248),
    ('llama32_1b', 1_235_814_400),
    ('qwen3_8b', 8_190_735_360),
  ],
)
def test_parameter_counts_of_the_llms_are_the_published_ones(name, expected):
  sizes = parsed(name).llama.sizes
  assert num_parameters(lambda rngs: Llama(sizes, rngs=rngs)) == expected


# As Transformers counts the same sizes.
@pytest.mark.parametrize(
  'name, expected', [('ctc_mls', 115_863_005), ('smol_ctc', 4_135_985)]
)
def test_parameter_counts_of_the_pretrained_encoders(name, expected):
  config = parsed(name)
  classes = config.vocabulary_size + 1
  make = lambda rngs: ConformerCTC(config.encoder.sizes, classes, rngs=rngs)  # noqa: E731
  assert num_parameters(make) == expected


# As Transformers counts the same sizes; `trained` is that of the encoder's parameters.
@pytest.mark.parametrize('name', ['llama31_8b', 'llama32_1b'])
@pytest.mark.parametrize(
  'encoder, expected, trained',
  [('parakeet', 607_749_120, 607_749_120), ('whisper', 636_968_960, 23_592_960)],
)
def test_parameter_counts_of_the_published_encoders(name, encoder, expected, trained):
  config = parse_experiment(load(name)[0].get_config(encoder))
  model = planning_shapes.speech_llm_shapes(config)
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
  params = nnx.state(model, trainable_filter(config.encoder.trains))
  assert size(params['encoder']) == trained
  encoder = planning_shapes.encoder_shapes(config.encoder)
  assert size(nnx.state(encoder, nnx.Param)) == expected
  # Ultravox's projector: stacked frames, a gated layer, and the LLM's width.
  stack, width = config.adapter.stack, config.llama.sizes.hidden_size
  wide = encoder.config.output_size * stack
  norms = wide + width // 2
  assert size(model.adapter) == wide * width + width // 2 * width + norms


def test_an_unknown_published_encoder_is_refused():
  with pytest.raises(ValueError, match="'hubert' is not one of parakeet, whisper"):
    load('llama31_8b')[0].get_config('hubert')


@pytest.mark.parametrize('name', ['llama2_7b_mls', 'llama2_13b_mls', 'llama2_70b_mls'])
def test_encoder_is_the_one_that_ctc_mls_pretrains(name):
  config = parsed(name)
  assert config.encoder.sizes == parsed('ctc_mls').encoder.sizes
  make = lambda rngs: Conformer(config.encoder.sizes, rngs=rngs)  # noqa: E731
  assert num_parameters(make) == 115_092_992
  width, stack = config.llama.sizes.hidden_size, config.adapter.stack
  sizes = build_adapter.adapter_sizes(config.adapter, 512, width, 0)
  make = lambda rngs: StrideAdapter(sizes, rngs=rngs)  # noqa: E731
  assert num_parameters(make) == stack * 512 * width


def test_sizes_that_disagree_with_the_files_are_refused(tiny_world):
  config = load_config(tiny_world)
  llama = build.load_frozen_llama(config.llama).config
  encoder = build.load_encoder(config.encoder).config
  same = change(config, **{'llama.sizes': vars(llama), 'encoder.sizes': vars(encoder)})
  build.load_frozen_llama(same.llama)
  build.load_encoder(same.encoder)
  other = change(
    same, **{'llama.sizes.num_hidden_layers': 3, 'encoder.sizes.d_model': 16}
  )
  with pytest.raises(ValueError, match=r'llama\.sizes\.num_hidden_layers is 3.* 2$'):
    build.load_frozen_llama(other.llama)
  with pytest.raises(ValueError, match=r'encoder\.sizes\.d_model is 16.* 12$'):
    build.load_encoder(other.encoder)


def test_flags_of_the_docs_name_keys_that_exist():
  """`--config.a.b=` in the README and the docs, for the config of the same line."""
  root = FOLDER.parent
  pages = [root / 'README.md', *(root / 'docs').rglob('*.md'), *FOLDER.glob('*.sh')]
  known = [config.to_dict() for config in (load(name)[1] for name in NAMES)]
  for page in pages:
    for path in set(re.findall(r'--config\.([\w.]+\w)=', page.read_text())):
      assert any(has(values, path.split('.')) for values in known), f'{page}: {path}'


def has(values, keys):
  first, *rest = keys
  if not isinstance(values, dict) or first not in values:
    return False
  return has(values[first], rest) if rest else True


LORA = dict(rank=2, alpha=1.0, dropout=0.0, targets=('q_proj',))
ON_POLICY = dict(
  weight=0.5,
  refresh_every=7,
  max_new_tokens=5,
  sampling=dict(temperature=1.0, top_k=0, top_p=1.0),
)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'weight': 0.0}, r'config\.response\.on_policy: weight is 0\.0; it must be a pos'),
    ({'weight': float('nan')}, r'on_policy: weight is nan; it must be a positive fin'),
    ({'refresh_every': 0}, r'on_policy: refresh_every is 0; it must be at least 1'),
    ({'max_new_tokens': 0}, r'on_policy: max_new_tokens is 0; it must be at least 1'),
    ({'refresh_every': 2.0}, r'on_policy\.refresh_every = 2\.0 is not an integer'),
    ({'top_k': 4}, r'config\.response\.on_policy\.top_k is not a key'),
    ({'sampling': dict(temperature=-1.0)}, r'on_policy\.sampling: temperature is -1'),
  ],
)
def test_bad_settings_of_on_policy_answers_are_refused(tiny_world, changes, message):
  load_config(tiny_world, **{'response.on_policy': ON_POLICY})
  with pytest.raises(ValueError, match=message):
    load_config(tiny_world, **{'response.on_policy': ON_POLICY | changes})


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'response.microbatches': 0}, 'microbatches is 0; it must be at least 1'),
    (
      {'response.microbatches': 2, 'llama.lora': LORA},
      'microbatches is 2, which needs a frozen LLM',
    ),
  ],
)
def test_bad_microbatches_are_refused(tiny_world, changes, message):
  with pytest.raises(ValueError, match=f'config.response.*{message}'):
    load_config(tiny_world, **changes)


def test_on_policy_answers_need_the_teachers_top_tokens(tiny_world):
  changes = {'response.on_policy': ON_POLICY, 'targets.top_k': 0}
  with pytest.raises(
    ValueError, match=r'config\.targets\.top_k is 0; config\.response'
  ):
    load_config(tiny_world, **changes)
