# SPDX-License-Identifier: Apache-2.0
"""Contents of exported folders, refused exports, and loading them into JAX again."""

import ast
import dataclasses
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
from acl_jax.runtime.files import sha256
from acl_jax.text.tokenizers import load_tokenizer
from acl_jax.weights import fingerprint
from acl_jax.weights import safetensors as shards
from acl_jax.weights.llama import load_llama, open_llama, save_llama
from tests import tiny_llama
from tests.tiny_world import change, load_config
from tests.weights import meta_test


def flip_bit(path):
  content = bytearray(path.read_bytes())
  content[-9] ^= 4
  path.write_bytes(content)


def assert_same_state(model, expected):
  jax.tree.map(np.testing.assert_array_equal, nnx.state(model), nnx.state(expected))


def test_folder_is_complete_and_has_no_pickle(exported_ctc):
  names = {path.name for path in exported_ctc.folder.iterdir()}
  assert names >= {
    'config.json',
    'model.safetensors',
    'generation_config.json',
    'tokenizer.json',
    'tokenizer_config.json',
    'chat_template.jinja',
    'processor_config.json',
    'README.md',
    'example.py',
    'modeling_audio_chat_llama.py',
  }
  suffixes = {path.suffix for path in exported_ctc.folder.iterdir()}
  assert suffixes <= {'.json', '.safetensors', '.jinja', '.md', '.py'}
  with safetensors.safe_open(exported_ctc.folder / 'model.safetensors', 'np') as file:
    prefixes = {name.split('.')[0] for name in file.keys()}  # noqa: SIM118
  assert prefixes == {'audio_tower', 'multi_modal_projector', 'language_model'}


def test_code_imports_few_packages(exported_ctc):
  known = {'torch', 'transformers', 'numpy', 'soundfile'} | sys.stdlib_module_names
  for path in exported_ctc.folder.glob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        assert all(alias.name.split('.')[0] in known for alias in node.names)
      elif isinstance(node, ast.ImportFrom):
        assert node.module, f'{path.name}: only `from .x import Y` works'
        assert node.level == 1 or node.module.split('.')[0] in known


def test_card_has_the_checksums(exported_ctc):
  card = (exported_ctc.folder / 'README.md').read_text()
  assert '{{' not in card
  llama = Path(exported_ctc.config.llama.path) / 'model.safetensors'
  assert sha256(llama) in card
  assert sha256(exported_ctc.workdir / 'adapter.safetensors') in card


@pytest.mark.full
def test_example_runs_without_jax(exported_ctc, tmp_path):
  import soundfile

  noise = np.random.default_rng(0).normal(0, 0.1, 8_000)
  soundfile.write(tmp_path / 'q.wav', noise, 16_000)
  code = f"""
import runpy, sys
sys.modules['jax'] = sys.modules['flax'] = sys.modules['acl_jax'] = None
sys.argv = ['example.py', {str(tmp_path / 'q.wav')!r}, 'now']
runpy.run_path({str(exported_ctc.folder / 'example.py')!r})
"""
  run = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    cwd=tmp_path,
  )
  assert run.returncode == 0, run.stderr
  assert run.stdout.strip()


def check_refused(exported, output, match, options=None, error=ValueError, **changes):
  """Check that an export raises a one-line error and leaves no files."""
  config = change(exported.config, **changes)
  before = sorted(output.parent.iterdir())
  with pytest.raises(error, match=match) as raised:
    export(config, output, str(exported.workdir), Options(**(options or {})))
  assert '\n' not in str(raised.value)
  assert sorted(output.parent.iterdir()) == before


def test_nonempty_output_is_refused(exported_ctc, tmp_path):
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full/notes.txt').write_text('mine')
  check_refused(exported_ctc, tmp_path / 'full', r'full: .*notes\.txt')
  check_refused(exported_ctc, tmp_path / 'full/notes.txt', r'notes\.txt: .*--output')


def test_too_small_a_disk_is_refused(exported_ctc, tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=1_000)
  monkeypatch.setattr(folders.shutil, 'disk_usage', lambda path: usage)
  match = r'out: .*0\.07 GB.*0\.00 GB'
  check_refused(exported_ctc, tmp_path / 'out', match, error=OSError)


def test_unknown_encoder_kind_raises(exported_ctc):
  with pytest.raises(ValueError, match=r"encoder\.kind .*'hubert'.*conformer"):
    change(exported_ctc.config, **{'encoder.kind': 'hubert'})


@pytest.mark.parametrize(
  'option, match',
  [
    ({'llm': 'borrow'}, "--llm .*'borrow'.*reference, include, alone"),
    ({'dtype': 'int4'}, "--dtype .*'int4'.*float32, bfloat16, float16"),
  ],
)
def test_unknown_options_raise(option, match):
  with pytest.raises(ValueError, match=match):
    Options(**option)


def test_corrupt_adapter_is_refused(exported_ctc, tmp_path):
  workdir = tmp_path / 'workdir'
  shutil.copytree(exported_ctc.workdir, workdir)
  flip_bit(workdir / 'adapter.safetensors')
  corrupt = exported_ctc._replace(workdir=workdir)
  check_refused(corrupt, tmp_path / 'out', r'adapter\.safetensors: .*sha256')


def test_corrupt_encoder_is_refused(exported_ctc, tmp_path):
  workdir = tmp_path / 'workdir'
  shutil.copytree(exported_ctc.workdir, workdir)
  encoder = build.load_encoder(exported_ctc.config.encoder)
  build.save_encoder(encoder, workdir / 'encoder')
  flip_bit(workdir / 'encoder/model.safetensors')
  corrupt = exported_ctc._replace(workdir=workdir)
  check_refused(corrupt, tmp_path / 'out', r'encoder/model\.safetensors: .*sha256')


@pytest.fixture(scope='module')
def report(exported_ctc):
  """A report of `evaluate` about this model; not to be written to."""
  adapter = sha256(exported_ctc.workdir / 'adapter.safetensors')
  llm = fingerprint.describe(load_llama(exported_ctc.config.llama.path))['sha256']
  return {
    'examples': 7,
    'model': {'adapter': {'sha256': adapter}, 'llm': {'sha256': llm}},
    'response_nll': {'text': 0.25, 'audio': 0.5, 'cascade': None},
    'wer': {'ctc': 0.125, 'cascade': None},
  }


def test_card_has_the_results_of_the_report(report, exported_ctc, tmp_path):
  path = tmp_path / 'report.json'
  path.write_text(json.dumps(report))
  export(
    exported_ctc.config,
    tmp_path / 'out',
    str(exported_ctc.workdir),
    Options(report=path),
  )
  card = (tmp_path / 'out/README.md').read_text()
  assert '| audio | 0.500 |' in card and '0.125' in card and '7 examples' in card


@pytest.mark.parametrize('part', ['adapter', 'llm'])
def test_report_about_another_model_is_refused(part, report, exported_ctc, tmp_path):
  path = tmp_path / 'report.json'
  model = report['model'] | {part: {'sha256': 'abc'}}
  path.write_text(json.dumps(report | {'model': model}))
  options = {'report': path}
  match = rf'report\.json: .*{part}.*sha256 abc'
  check_refused(exported_ctc, tmp_path / 'out', match, options)


def test_llm_fingerprint_equals_that_of_targets(exported_ctc):
  path = exported_ctc.config.llama.path
  for dtype in ('float32', 'bfloat16'):
    expected = fingerprint.describe(load_llama(path, dtype))
    assert provenance.fingerprint_llm(open_llama(path), dtype) == expected


def test_interrupted_export_leaves_no_folder(exported_ctc, tmp_path, monkeypatch):
  def interrupt(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(shards, 'write', interrupt)
  check_refused(exported_ctc, tmp_path / 'out', '^$', error=KeyboardInterrupt)


def test_leftovers_of_a_killed_export_are_removed(exported_ctc, tmp_path):
  partial = tmp_path / '.out.unfinished'
  partial.mkdir()
  (partial / 'model.safetensors').write_text('half')
  export(exported_ctc.config, tmp_path / 'out', str(exported_ctc.workdir))
  assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_llm_that_transformers_cannot_load_must_be_included(exported_ctc, tmp_path):
  (tmp_path / 'meta').mkdir()
  meta_test.write(tmp_path / 'meta')
  path = {'llama.path': str(tmp_path / 'meta')}
  check_refused(exported_ctc, tmp_path / 'out', 'meta: .*--llm=include', **path)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_llm_alone_loads_as_a_llama_of_transformers(dtype, exported_ctc, tmp_path):
  options = Options(llm='alone', dtype=dtype)
  export(exported_ctc.config, tmp_path / 'llm', None, options)
  auto_class = transformers.AutoModelForCausalLM
  loaded = auto_class.from_pretrained(tmp_path / 'llm', torch_dtype='auto')
  assert type(loaded).__name__ == 'LlamaForCausalLM'
  assert str(loaded.dtype) == f'torch.{dtype}'
  expected = auto_class.from_pretrained(
    exported_ctc.config.llama.path, torch_dtype=loaded.dtype
  )
  for name, weight in expected.state_dict().items():
    assert (loaded.state_dict()[name] == weight).all(), name
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'llm')
  expected_tokenizer = load_tokenizer(exported_ctc.config.llama.path)
  assert tokenizer('go on')['input_ids'] == expected_tokenizer.encode('go on')


@pytest.mark.full
def test_llm_alone_keeps_its_family(exported_ctc, tmp_path):
  path = Path(exported_ctc.config.llama.path)
  shutil.copytree(path, tmp_path / 'qwen')
  sizes = dataclasses.replace(
    open_llama(path).config, model_type='qwen3', qk_norm=True, rope_theta=1e6
  )
  model = tiny_llama.build(sizes)
  save_llama(model, tmp_path / 'qwen')
  llm = dataclasses.replace(exported_ctc.config.llama, path=str(tmp_path / 'qwen'))
  config = dataclasses.replace(exported_ctc.config, llama=llm)
  export(config, tmp_path / 'llm', None, Options(llm='alone'))
  loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'llm')
  assert type(loaded).__name__ == 'Qwen3ForCausalLM'
  tiny_llama.assert_equal(load_llama(tmp_path / 'llm'), model)


def test_large_models_are_sharded(exported_ctc, loaded_ctc, tmp_path, monkeypatch):
  write_small_shards = functools.partial(shards.write, limit=20_000)
  monkeypatch.setattr(shards, 'write', write_small_shards)
  output, options = tmp_path / 'sharded_out', Options(llm='include')
  export(exported_ctc.config, output, str(exported_ctc.workdir), options)
  assert len(shards.weight_files(output)) > 2
  sharded, _ = exported_ctc._replace(folder=output).load()
  whole, _ = loaded_ctc
  for name, weight in whole.state_dict().items():
    assert (sharded.state_dict()[name] == weight).all(), name


def test_exported_folder_loads_as_the_same_jax_model(exported):
  original, _ = exported.load_jax()
  checkpoint = build.find_checkpoint(exported.folder)
  # With the LLM that it was exported from, and with the one in the folder.
  adapter = build.load_trained_adapter(checkpoint, exported.config)
  assert adapter.config == original.adapter.config
  assert_same_state(adapter, original.adapter)
  config = change(exported.config, **{'llama.path': str(exported.folder)})
  model = build.load_model(config, checkpoint)
  assert_same_state(model.adapter, original.adapter)
  assert_same_state(model.encoder, original.encoder.tower)
  assert_same_state(model.llama, original.llama)


def test_exported_adapter_refuses_another_llm(exported_ctc, tiny_world, tmp_path):
  shutil.copytree(exported_ctc.config.llama.path, tmp_path / 'llama')
  llama = load_llama(tmp_path / 'llama')
  llama.norm[...] += 1
  save_llama(llama, tmp_path / 'llama')
  config = load_config(tiny_world, **{'llama.path': str(tmp_path / 'llama')})
  with pytest.raises(ValueError, match='llama: .*sha256'):
    build.load_trained_adapter(build.find_checkpoint(exported_ctc.folder), config)


def test_corrupt_exported_weights_raise(exported_ctc, tmp_path):
  shutil.copytree(exported_ctc.folder, tmp_path / 'copy')
  flip_bit(tmp_path / 'copy/model.safetensors')
  checkpoint = build.find_checkpoint(tmp_path / 'copy')
  with pytest.raises(ValueError, match=r'copy/model\.safetensors: .*sha256'):
    build.load_trained_adapter(checkpoint, exported_ctc.config)


def test_folder_saved_by_transformers_loads_in_jax(loaded_ctc, exported_ctc, tmp_path):
  model, _ = loaded_ctc
  model.save_pretrained(tmp_path / 'tuned')
  checkpoint = build.find_checkpoint(tmp_path / 'tuned')
  original, _ = exported_ctc.load_jax()
  assert_same_state(build.load_model(exported_ctc.config, checkpoint), original)


def test_training_starts_from_an_exported_folder(exported_ctc, tiny_world, tmp_path):
  changes = {'init_from': str(exported_ctc.folder), 'ctc.steps': 0, 'response.steps': 0}
  model = train.train(load_config(tiny_world, **changes), tmp_path / 'on')
  original, _ = exported_ctc.load_jax()
  assert_same_state(model.adapter, original.adapter)


def test_projector_of_another_size_raises(export_kind, tmp_path):
  exported = export_kind('linear')
  shutil.copytree(exported.folder, tmp_path / 'copy')
  config = json.loads((exported.folder / 'config.json').read_text())
  config['stack_factor'] = 5
  (tmp_path / 'copy/config.json').write_text(json.dumps(config))
  checkpoint = build.find_checkpoint(tmp_path / 'copy')
  with pytest.raises(ValueError, match=r'linear\.weight .*shape'):
    build.load_trained_adapter(checkpoint, exported.config)
