# SPDX-License-Identifier: Apache-2.0
"""What an export writes, what it refuses, and the way back."""

import ast
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors
import transformers
from flax import nnx

from acl_jax import build, train
from acl_jax.export import Options, export
from acl_jax.exporting import folder as folders
from acl_jax.exporting import provenance
from acl_jax.models.whisper import Whisper
from acl_jax.runtime.files import sha256
from acl_jax.weights import fingerprint
from acl_jax.weights import safetensors as shards
from acl_jax.weights.llama import load_llama, open_llama, save_llama_hf
from tests.exporting.conftest import make
from tests.tiny_world import load_config
from tests.weights import meta_test


def test_the_folder_has_all_that_it_needs_and_no_pickle(letters):
  names = {path.name for path in letters.folder.iterdir()}
  assert names >= {
    *('config.json', 'model.safetensors', 'generation_config.json', 'tokenizer.json'),
    *('tokenizer_config.json', 'chat_template.jinja', 'processor_config.json'),
    *('README.md', 'example.py', 'modeling_audio_chat_llama.py'),
  }
  assert {path.suffix for path in letters.folder.iterdir()} <= {
    *('.json', '.safetensors', '.jinja', '.md', '.py'),
  }
  prefixes = {name.split('.')[0] for name in shards_of(letters.folder)}
  assert prefixes == {'audio_tower', 'multi_modal_projector', 'language_model'}


def shards_of(folder):
  with safetensors.safe_open(folder / 'model.safetensors', 'np') as file:
    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_the_code_imports_little(letters):
  known = {'torch', 'transformers', 'numpy', 'soundfile'} | sys.stdlib_module_names
  for path in letters.folder.glob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        assert all(alias.name.split('.')[0] in known for alias in node.names)
      elif isinstance(node, ast.ImportFrom):
        assert node.module, f'{path.name}: only `from .x import Y` works'
        assert node.level == 1 or node.module.split('.')[0] in known


def test_the_card_tells_where_it_comes_from(letters):
  card = (letters.folder / 'README.md').read_text()
  assert '{{' not in card
  llama = Path(letters.config.llama.path) / 'model.safetensors'
  assert sha256(llama) in card
  assert sha256(letters.workdir / 'adapter.safetensors') in card


def test_its_own_example_runs_without_jax(letters, tmp_path):
  import soundfile

  sound = np.random.default_rng(0).normal(0, 0.1, 8_000)
  soundfile.write(tmp_path / 'q.wav', sound, 16_000)
  code = f"""
import runpy, sys
sys.modules['jax'] = sys.modules['flax'] = sys.modules['acl_jax'] = None
sys.argv = ['example.py', {str(tmp_path / 'q.wav')!r}, 'now']
runpy.run_path({str(letters.folder / 'example.py')!r})
"""
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip()


def refuse(letters, output, message, options=None, error=ValueError, **changes):
  """Exporting ends in this error, and leaves nothing."""
  config = letters.config.copy_and_resolve_references()
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  before = sorted(output.parent.iterdir())
  with pytest.raises(error, match=message) as raised:
    export(config, output, str(letters.workdir), Options(**(options or {})))
  assert '\n' not in str(raised.value)
  assert sorted(output.parent.iterdir()) == before


def test_a_folder_with_something_in_it_is_refused(letters, tmp_path):
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full/notes.txt').write_text('mine')
  refuse(letters, tmp_path / 'full', 'full: is not empty .notes.txt')
  refuse(letters, tmp_path / 'full/notes.txt', 'is a file')


def test_too_little_disk_is_found_before_anything_is_written(
  letters, tmp_path, monkeypatch
):
  usage = shutil.disk_usage(tmp_path)._replace(free=1_000)
  monkeypatch.setattr(folders.shutil, 'disk_usage', lambda path: usage)
  refuse(letters, tmp_path / 'out', 'takes 0.07 GB, the disk has 0.00', error=OSError)


def test_an_unknown_encoder_is_refused(letters, tmp_path):
  change = {'encoder.kind': 'hubert'}
  refuse(letters, tmp_path / 'out', "kind is 'hubert'; known: conformer", **change)


@pytest.mark.parametrize('option', [{'llm': 'borrow'}, {'dtype': 'int4'}])
def test_unknown_options_are_refused(option):
  with pytest.raises(ValueError, match='known'):
    Options(**option)


def test_an_adapter_with_a_flipped_bit_is_refused(letters, tmp_path):
  workdir = tmp_path / 'workdir'
  shutil.copytree(letters.workdir, workdir)
  path = workdir / 'adapter.safetensors'
  content = bytearray(path.read_bytes())
  content[-9] ^= 4
  path.write_bytes(content)
  spoilt = letters._replace(workdir=workdir)
  refuse(spoilt, tmp_path / 'out', 'adapter.safetensors: has changed since it was')


def test_a_trained_encoder_with_a_flipped_bit_is_refused(letters, tmp_path):
  workdir = tmp_path / 'workdir'
  shutil.copytree(letters.workdir, workdir)
  encoder = build.load_encoder(letters.config)
  build.save_encoder(encoder, workdir / 'encoder')
  path = workdir / 'encoder/model.safetensors'
  content = bytearray(path.read_bytes())
  content[-9] ^= 4
  path.write_bytes(content)
  spoilt = letters._replace(workdir=workdir)
  refuse(spoilt, tmp_path / 'out', 'encoder/model.safetensors: has changed since')


def report_of(letters, **changes):
  adapter = sha256(letters.workdir / 'adapter.safetensors')
  llm = fingerprint.describe(load_llama(letters.config.llama.path))['sha256']
  model = {'adapter': {'sha256': adapter}, 'llm': {'sha256': llm}}
  model |= {part: {'sha256': value} for part, value in changes.items()}
  return {
    'examples': 7,
    'model': model,
    'response_nll': {'text': 0.25, 'audio': 0.5, 'cascade': None},
    'wer': {'ctc': 0.125, 'cascade': None},
  }


def test_the_figures_of_a_report_are_in_the_card(letters, tmp_path):
  path = tmp_path / 'report.json'
  path.write_text(json.dumps(report_of(letters)))
  export(letters.config, tmp_path / 'out', str(letters.workdir), Options(report=path))
  card = (tmp_path / 'out/README.md').read_text()
  assert '| audio | 0.500 |' in card and '0.125' in card and '7 examples' in card


@pytest.mark.parametrize('part', ['adapter', 'llm'])
def test_a_report_about_another_model_is_refused(part, letters, tmp_path):
  path = tmp_path / 'report.json'
  path.write_text(json.dumps(report_of(letters, **{part: 'abc'})))
  options = {'report': path}
  refuse(letters, tmp_path / 'out', f'is about another {part}, of sha256 abc', options)


def test_the_fingerprint_of_an_llm_is_that_of_targets(letters):
  path = letters.config.llama.path
  for dtype in ('float32', 'bfloat16'):
    ours = fingerprint.describe(load_llama(path, dtype))
    assert provenance.describe_llm(open_llama(path), dtype) == ours


def test_an_interrupted_export_leaves_no_folder(letters, tmp_path, monkeypatch):
  def interrupt(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(shards, 'write', interrupt)
  refuse(letters, tmp_path / 'out', '^$', error=KeyboardInterrupt)


def test_a_killed_export_leaves_nothing_that_loads_and_is_cleared_away(
  letters, tmp_path
):
  partial = tmp_path / '.out.unfinished'
  partial.mkdir()
  (partial / 'model.safetensors').write_text('half')
  export(letters.config, tmp_path / 'out', str(letters.workdir))
  assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_an_llm_that_transformers_cannot_load_must_be_included(letters, tmp_path):
  (tmp_path / 'meta').mkdir()
  meta_test.write(tmp_path / 'meta')
  change = {'llama.path': str(tmp_path / 'meta')}
  refuse(
    letters, tmp_path / 'out', 'cannot be referred to; use --llm=include', **change
  )


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_llm_alone_is_a_llama_of_transformers(dtype, letters, tmp_path):
  options = Options(llm='alone', dtype=dtype)
  export(letters.config, tmp_path / 'llm', None, options)
  kind = transformers.AutoModelForCausalLM
  loaded = kind.from_pretrained(tmp_path / 'llm', torch_dtype='auto')
  assert type(loaded).__name__ == 'LlamaForCausalLM'
  assert str(loaded.dtype) == f'torch.{dtype}'
  wanted = kind.from_pretrained(letters.config.llama.path, torch_dtype=loaded.dtype)
  for name, weight in wanted.state_dict().items():
    assert (loaded.state_dict()[name] == weight).all(), name
  assert (
    build.load_text_frontend(letters.config).tokenizer.encode('go on')
    == (
      transformers.AutoTokenizer.from_pretrained(tmp_path / 'llm')('go on')['input_ids']
    )
  )


def test_large_models_are_sharded(letters, tmp_path, monkeypatch):
  small = functools.partial(shards.write, limit=20_000)
  monkeypatch.setattr(shards, 'write', small)
  options = Options(llm='include')
  export(letters.config, tmp_path / 'sharded_out', str(letters.workdir), options)
  assert len(shards.files(tmp_path / 'sharded_out')) > 2
  sharded, _ = letters._replace(folder=tmp_path / 'sharded_out').load()
  whole, _ = letters.load()
  for name, weight in whole.state_dict().items():
    assert (sharded.state_dict()[name] == weight).all(), name


def test_the_way_back_is_the_same_model(world):
  checkpoint = str(world.folder)
  there = build.load_model(world.config, str(world.workdir))
  back = build.load_model(world.config, checkpoint)
  assert back.adapter.config == there.adapter.config
  jax.tree.map(
    np.testing.assert_array_equal, nnx.state(back.adapter), nnx.state(there.adapter)
  )
  encoder = (
    there.encoder if isinstance(there.encoder, Whisper) else there.encoder.encoder
  )
  jax.tree.map(
    np.testing.assert_array_equal, nnx.state(back.encoder), nnx.state(encoder)
  )
  config = world.config.copy_and_resolve_references()
  config.llama.path = checkpoint  # it has the LLM, too
  llama = build.load_model(config, checkpoint).llama
  jax.tree.map(np.testing.assert_array_equal, nnx.state(llama), nnx.state(there.llama))


def test_the_way_back_refuses_another_llm(letters, tiny_world, tmp_path):
  shutil.copytree(letters.config.llama.path, tmp_path / 'llama')
  llama = load_llama(tmp_path / 'llama')
  llama.norm[...] += 1
  save_llama_hf(llama, tmp_path / 'llama')
  config = load_config(tiny_world, **{'llama.path': str(tmp_path / 'llama')})
  with pytest.raises(ValueError, match='its weights are not those that .* was trained'):
    build.load_trained_adapter(config, str(letters.folder))


def test_the_way_back_notices_a_flipped_bit(letters, tmp_path):
  shutil.copytree(letters.folder, tmp_path / 'copy')
  path = tmp_path / 'copy/model.safetensors'
  content = bytearray(path.read_bytes())
  content[-9] ^= 4
  path.write_bytes(content)
  with pytest.raises(ValueError, match='has changed since it was saved'):
    build.load_trained_adapter(letters.config, str(tmp_path / 'copy'))


def test_what_transformers_saved_comes_back_too(letters, tmp_path):
  model, _ = letters.load()
  model.save_pretrained(tmp_path / 'tuned')
  back = build.load_model(letters.config, str(tmp_path / 'tuned'))
  there = build.load_model(letters.config, str(letters.workdir))
  jax.tree.map(np.testing.assert_array_equal, nnx.state(back), nnx.state(there))


def test_training_goes_on_from_an_exported_folder(letters, tiny_world, tmp_path):
  changes = {'init_from': str(letters.folder), 'ctc.steps': 0, 'response.steps': 0}
  model = train.train(load_config(tiny_world, **changes), tmp_path / 'on')
  there = build.load_model(letters.config, str(letters.workdir))
  jax.tree.map(
    np.testing.assert_array_equal, nnx.state(model.adapter), nnx.state(there.adapter)
  )


def test_a_llama_of_another_size_is_refused(letters, tiny_world, tmp_path):
  world = make(tiny_world, tmp_path, 'linear')
  config = json.loads((world.folder / 'config.json').read_text())
  config['stack_factor'] = 5
  (world.folder / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError, match='linear.weight has shape'):
    build.load_trained_adapter(world.config, str(world.folder))
