# SPDX-License-Identifier: Apache-2.0
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from acl_jax.models import whisper
from acl_jax.models.conformer import Conformer, ConformerConfig
from acl_jax.models.lora import LoRAConfig, apply_lora, find_lora_config, merge_lora
from acl_jax.weights import peft
from acl_jax.weights.fingerprint import describe
from acl_jax.weights.llama import llama_names, save_llama
from acl_jax.weights.parakeet import conformer_names, save_conformer
from acl_jax.weights.tensor import Tensor
from acl_jax.weights.whisper import save_whisper, whisper_names
from tests import tiny_llama
from tests.models.lora_test import randomise
from tests.tiny_weights import draw

SIZES = whisper.WhisperConfig(
  num_mel_bins=10,
  d_model=12,
  encoder_layers=2,
  encoder_attention_heads=3,
  encoder_ffn_dim=18,
  max_source_positions=20,
)
CONFORMER = ConformerConfig(
  hidden_size=12,
  num_hidden_layers=2,
  num_attention_heads=3,
  intermediate_size=20,
  conv_kernel_size=5,
  num_mel_bins=16,
  subsampling_conv_channels=7,
)
FRAMES = np.random.default_rng(0).normal(size=(2, 40, 10)).astype(np.float32)
TARGETS = ('q_proj', 'k_proj', 'out_proj', 'fc1', 'fc2')


def build():
  return draw(lambda: whisper.Whisper(SIZES, rngs=nnx.Rngs(0)))


def wrap(module, *targets, dropout=0.1):
  apply_lora(module, LoRAConfig(3, 5.0, dropout, targets), rngs=nnx.Rngs(1))
  return randomise(module)


@jax.jit
def encode(model):
  return model(jnp.asarray(FRAMES), jnp.ones(FRAMES.shape[:2], bool))[0]


@pytest.fixture
def folder(tmp_path):
  """The updates of a Whisper encoder."""
  module = wrap(build(), *TARGETS)
  sha256 = describe(build())['sha256']
  peft.save_lora(module, whisper_names(module), tmp_path / 'lora', 'asset:x', sha256)
  return tmp_path / 'lora'


def load(folder, model=None):
  model = model or build()
  sha256 = describe(model)['sha256']
  peft.load_lora(model, whisper_names(model), folder, sha256)
  return model


def run_torch(model):
  import torch

  with torch.inference_mode():
    frames = torch.from_numpy(FRAMES).swapaxes(1, 2)
    return model.eval()(frames).last_hidden_state.numpy()


def torch_encoder(tmp_path):
  from transformers import WhisperModel

  save_whisper(build(), tmp_path / 'base')
  config = json.loads((tmp_path / 'base/config.json').read_text())
  others = {'decoder_layers': 1, 'decoder_attention_heads': 2, 'decoder_ffn_dim': 8}
  (tmp_path / 'base/config.json').write_text(json.dumps(config | others))
  return WhisperModel.from_pretrained(tmp_path / 'base').encoder


@pytest.mark.filterwarnings('ignore')  # of other packages
def test_peft_reads_what_is_written(folder, tmp_path):
  from peft import PeftModel

  model = PeftModel.from_pretrained(torch_encoder(tmp_path), folder)
  expected = encode(wrap(build(), *TARGETS))
  assert np.abs(expected - encode(build())).max() > 1e-2
  np.testing.assert_allclose(run_torch(model), expected, atol=1e-5)


@pytest.mark.filterwarnings('ignore')
def test_what_peft_writes_is_read(tmp_path):
  import torch
  from peft import LoraConfig, get_peft_model

  torch.manual_seed(0)
  settings = LoraConfig(
    r=2, lora_alpha=7, target_modules=['v_proj', 'fc2'], init_lora_weights=False
  )
  model = get_peft_model(torch_encoder(tmp_path), settings)
  model.save_pretrained(tmp_path / 'lora')
  loaded = load(tmp_path / 'lora')
  config = find_lora_config(loaded)
  assert config == LoRAConfig(2, 7.0, 0.0, ('layers.fc2', 'layers.v_proj'))
  np.testing.assert_allclose(encode(loaded), run_torch(model), atol=1e-5)
  np.testing.assert_allclose(encode(merge_lora(loaded)), run_torch(model), atol=1e-5)


def test_a_round_trip_changes_nothing(folder):
  module = wrap(build(), *TARGETS)
  jax.tree.map(np.testing.assert_array_equal, load(folder), module)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', ['llama', 'conformer'])
def test_peft_reads_other_models(name, tmp_path):
  """Heads, and convolutions of width 1, have layouts of their own."""
  import transformers
  from peft import PeftModel

  if name == 'llama':
    module: Any = tiny_llama.build()
    save: Any = save_llama
    names: Any = llama_names
    targets: tuple[str, ...] = ('q_proj', 'k_proj', 'o_proj', 'down_proj')
    create = transformers.LlamaForCausalLM
  else:
    module = draw(lambda: Conformer(CONFORMER, rngs=nnx.Rngs(0)))
    save, names = save_conformer, conformer_names
    targets = ('self_attn.q_proj', 'relative_k_proj', 'linear1', 'pointwise_conv1')
    targets += ('subsampling.linear', 'pointwise_1')
    create = transformers.ParakeetEncoder
  save(module, tmp_path / 'base')
  peft.save_lora(wrap(module, *targets), names(module), tmp_path / 'lora', '', 'x')
  base = create.from_pretrained(tmp_path / 'base')
  model: Any = PeftModel.from_pretrained(base, tmp_path / 'lora')
  merged, saved = model.merge_and_unload(), merge_lora(module)
  save(saved, tmp_path / 'merged')
  expected = create.from_pretrained(tmp_path / 'merged').state_dict()
  for key, value in merged.state_dict().items():
    np.testing.assert_allclose(value, expected[key], atol=1e-6, err_msg=key)


def test_another_base_is_refused(folder):
  other = draw(lambda: whisper.Whisper(SIZES, rngs=nnx.Rngs(0)), seed=1)
  with pytest.raises(ValueError, match='trained on another base: the sha256'):
    load(folder, other)


@pytest.mark.parametrize(
  'key, value',
  [
    ('use_dora', True),
    ('bias', 'all'),
    ('modules_to_save', ['conv1']),
    ('rank_pattern', {'fc1': 4}),
    ('use_rslora', True),
    ('init_lora_weights', 'pissa'),
    ('an_option_of_tomorrow', 1),
  ],
)
def test_options_that_are_not_supported_are_named(folder, key, value):
  edit(folder, **{key: value})
  with pytest.raises(ValueError, match=rf'adapter_config.json: .*\b{key} = '):
    load(folder)


def edit(folder, **changes):
  path = folder / 'adapter_config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'r': 4}, r'shape \(3, 12\); the base and r require \(4, 12\)'),
    ({'r': 'many'}, r"rank = 'many' must be of type int"),
    ({'r': None}, 'r is missing'),
    ({'lora_alpha': -1}, r'alpha = -1.0 is not a positive'),
  ],
)
def test_wrong_values_are_named(folder, changes, message):
  edit(folder, **changes)
  with pytest.raises(ValueError, match=message):
    load(folder)


def test_missing_and_unexpected_tensors_are_named(folder):
  path = folder / 'adapter_model.safetensors'
  tensors = peft.safetensors.read_file(path)
  arrays = {name: tensor.read() for name, tensor in tensors.items()}
  tensors = {name: Tensor.from_array(array) for name, array in arrays.items()}
  name = 'base_model.model.layers.1.fc1.lora_B.weight'
  tensor = tensors.pop(name)
  peft.safetensors.write_file(path, [*tensors.items()])
  with pytest.raises(ValueError, match=f'{name} is missing'):
    load(folder)
  other = name.replace('fc1', 'fc3')
  tensors |= {name: tensor, other: tensor}
  peft.safetensors.write_file(path, [*tensors.items()])
  with pytest.raises(ValueError, match='unexpected tensor layers.1.fc3'):
    load(folder)
