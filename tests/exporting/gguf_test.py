# SPDX-License-Identifier: Apache-2.0
"""Folders for llama.cpp: their files, what is refused, and the check of the files."""

import shutil

import numpy as np
import pytest
from flax import nnx

from acl_jax import build
from acl_jax.export import Options, export
from acl_jax.exporting import check_gguf, gguf_folder, llama_server
from acl_jax.exporting import folder as folders
from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.whisper import Whisper, WhisperConfig
from acl_jax.text.templates import Turn
from acl_jax.weights import gguf_file
from acl_jax.weights.adapter import save_adapter
from tests.exporting.conftest import STRIDE, ExportedModel
from tests.tiny_world import change, load_config

ENCODER = WhisperConfig(80, 12, 1, 2, 14, 1_500)
FILES = ('README.md', 'llm.gguf', 'mmproj.gguf')


@pytest.fixture(scope='module')
def exported(tiny_world, tmp_path_factory) -> ExportedModel:
  """A tiny model in the formats of llama.cpp; its folder is not to be written to."""
  tmp = tmp_path_factory.mktemp('gguf')
  build.save_encoder(Whisper(ENCODER, rngs=nnx.Rngs(0)), tmp / 'whisper')
  adapter = StrideAdapter(StrideAdapterConfig(3, 12, 14, 24), rngs=nnx.Rngs(1))
  adapter.ln_mid[...] += np.arange(7) / 7
  (tmp / 'workdir').mkdir()
  save_adapter(tmp / 'workdir' / build.ADAPTER_FILE, adapter)
  config = change(
    load_config(tiny_world),
    adapter=STRIDE | {'hidden_size': 14},
    **{'encoder.path': str(tmp / 'whisper')},
  )
  result = ExportedModel(config, tmp / 'workdir', tmp / 'folder')
  export_gguf(result, result.folder)
  return result


def export_gguf(exported, output, **options):
  options = {'llm': 'include', 'format': 'gguf'} | options
  export(exported.config, output, str(exported.workdir), Options(**options))


def test_the_folder_has_two_files_and_a_card(exported):
  assert sorted(path.name for path in exported.folder.iterdir()) == sorted(FILES)
  card = (exported.folder / 'README.md').read_text()
  assert '{{' not in card
  assert 'llama-server -m llm.gguf --mmproj mmproj.gguf' in card


def test_llm_and_text_are_read_as_they_were(exported):
  path = str(exported.folder / 'llm.gguf')
  written = change(exported.config, template='auto', **{'llama.path': path})
  expected = exported.config
  texts = [build.load_text_frontend(c.llama, c.template) for c in (written, expected)]
  turns = [Turn('user', 'go on'), Turn('assistant', 'oh no'), Turn('user', 'stop <b>')]
  prompts = [text.conversation_prompt(turns) for text in texts]
  assert prompts[0] == prompts[1]
  stops = [set(text.tokenizer.stop_ids) for text in texts]
  assert stops[0] >= stops[1]


def test_a_start_token_of_every_turn_is_not_added(exported):
  metadata, _ = gguf_file.read(exported.folder / 'llm.gguf')
  assert metadata['tokenizer.ggml.add_bos_token'] is False


@pytest.mark.parametrize(
  'llm, files', [('alone', FILES[1:2]), ('reference', FILES[::2])]
)
def test_one_of_the_files(llm, files, exported, tmp_path):
  export_gguf(exported, tmp_path / 'out', llm=llm, dtype='q8_0')
  assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == sorted(files)


def test_the_check_compares_the_files(exported, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(llama_server, 'PACKAGE', 'not_installed')
  monkeypatch.delenv(llama_server.VARIABLE, raising=False)
  config, workdir = exported.config, str(exported.workdir)
  assert check_gguf.check_export(config, exported.folder, workdir, []) == {}
  output = capsys.readouterr().out.splitlines()
  assert [line.split()[-1] for line in output[:1]] == ['0']
  assert float(output[1].split()[-1]) < 1e-3  # of convolutions in float16
  assert 'llama-server' in output[2] and '$ACL_LLAMA_SERVER' in output[2]
  export_gguf(exported, tmp_path / 'half', dtype='float16')
  check_gguf.check_export(config, tmp_path / 'half', workdir, [])
  assert 0 < float(capsys.readouterr().out.splitlines()[0].split()[-1]) < 1e-3
  with pytest.raises(FileNotFoundError, match='neither llm.gguf nor mmproj.gguf'):
    check_gguf.check_export(config, tmp_path, workdir, [])


@pytest.mark.parametrize(
  'kind, match',
  [
    ('ctc', 'no projector like the ctc adapter. Serve it with .*acl_jax.serve'),
    ('attention', 'no projector like the attention adapter'),
    ('linear', r'one linear map, .*hidden_size = None.*smol_stride'),
    ('conformer', 'behind a conformer encoder .*parakeet.*squared ReLU'),
    ('swiglu', 'max_source_positions = 50; llama.cpp'),
  ],
)
def test_what_llama_cpp_cannot_compute_is_refused(kind, match, export_kind, tmp_path):
  with pytest.raises(ValueError, match=match) as raised:
    export_gguf(export_kind(kind), tmp_path / 'out')
  assert '\n' not in str(raised.value)
  assert not list(tmp_path.glob('o*'))


def test_too_small_a_disk_is_refused(exported, tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=1_000)
  monkeypatch.setattr(folders.shutil, 'disk_usage', lambda path: usage)
  with pytest.raises(OSError, match=r'out: the export needs 0\.00 GB'):
    export_gguf(exported, tmp_path / 'out')


def test_a_tokenizer_that_reads_otherwise_is_refused(exported, tmp_path, monkeypatch):
  describe = gguf_folder.describe_tokenizer

  def describe_without_merges(*args):
    fields = describe(*args)
    return fields | {'tokenizer.ggml.merges': fields['tokenizer.ggml.merges'][:1]}

  monkeypatch.setattr(gguf_folder, 'describe_tokenizer', describe_without_merges)
  with pytest.raises(ValueError, match='exported as GGUF: .* would be .*, not'):
    export_gguf(exported, tmp_path / 'out')
  assert not list(tmp_path.glob('o*'))


def test_q8_0_is_of_gguf_only():
  with pytest.raises(ValueError, match="--dtype is 'q8_0'; choose from float32"):
    Options(dtype='q8_0')


def test_a_server_that_does_not_exist_is_named(monkeypatch):
  monkeypatch.setenv(llama_server.VARIABLE, '/nowhere/llama-server')
  with pytest.raises(
    FileNotFoundError, match='/nowhere/llama-server, which is no file'
  ):
    llama_server.find_server()


@pytest.mark.full
@pytest.mark.parametrize(
  'end, message',
  [
    ('kill -ILL $$', 'instructions that this CPU lacks'),
    ('echo no RAM; exit 1', 'no RAM'),
  ],
)
def test_a_server_that_does_not_start_is_an_error(tmp_path, end, message):
  program = tmp_path / 'llama-server'
  program.write_text(f'#!/bin/sh\n{end}\n')
  program.chmod(0o755)
  with (
    pytest.raises(OSError, match=f'llama-server has ended: .*{message}'),
    llama_server.run_server(program, tmp_path),
  ):
    pass
