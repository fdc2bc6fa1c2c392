# SPDX-License-Identifier: Apache-2.0
"""Measure time and peak memory of an export, with random weights in a Llama's shapes.

  .venv/bin/python benchmarks/export.py                  # Llama-2-7B, 27 GB of disk
  .venv/bin/python benchmarks/export.py --layers=1       # one of its 32 layers
  .venv/bin/python benchmarks/export.py --format=gguf    # for llama.cpp

The LLM is written as sharded bfloat16 safetensors, then exported with an encoder of
Whisper base's size and a projector like Ultravox's. The export and, of the default
format, the loading in PyTorch each run in a process of their own. Peak memory counts
resident pages, including those of mapped files, minus what the process has after its
imports. Linux only. The last line is JSON.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from absl import app, flags
from flax import nnx

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from acl_jax import build
from acl_jax.config import defaults
from acl_jax.config.experiment import parse_train
from acl_jax.export import FORMATS, INCLUDE, TRANSFORMERS, Options, export
from acl_jax.exporting.description import write_json
from acl_jax.models import adapters, llama, whisper
from acl_jax.weights import safetensors, table
from acl_jax.weights.adapter import save_adapter
from acl_jax.weights.configuration import llama_axis_sizes
from acl_jax.weights.huggingface import LLAMA
from acl_jax.weights.llama import rows_in_use
from acl_jax.weights.llama_config import describe_llama
from acl_jax.weights.tensor import Tensor
from benchmarks.machine import print_result

_LAYERS = flags.DEFINE_integer('layers', 32, 'layers of the Llama', lower_bound=1)
_FOLDER = flags.DEFINE_string('folder', None, 'for the models, else a temporary one')
_FORMAT = flags.DEFINE_enum('format', TRANSFORMERS, FORMATS, 'of the folder')
_STEP = flags.DEFINE_enum(
  'step', None, ['export', 'load'], 'used by the program itself'
)

VOCABULARY, WIDTH, STACK = 32_000, 4_096, 6  # llama.cpp refuses a stack of 8
ENCODER = whisper.WhisperConfig(80, 512, 6, 8, 2_048, 1_500)


def llama_config(layers: int) -> llama.LlamaConfig:
  """Return the config of Llama-2-7B with another number of layers."""
  return llama.LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    intermediate_size=11_008,
    num_hidden_layers=layers,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    rope_theta=1e4,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    max_position_embeddings=4_096,
  )


def write_llama(folder: Path, config: llama.LlamaConfig) -> None:
  """Write random weights one tensor at a time, repeating one random block."""
  folder.mkdir()
  block = np.random.default_rng(0).normal(0, 0.02, 1 << 20).astype(ml_dtypes.bfloat16)
  tensors = []
  for name, _, layout in rows_in_use(LLAMA, config):
    shape = table.tensor_shape(layout, llama_axis_sizes(config))
    read = lambda shape=shape: np.resize(block, shape)  # noqa: E731
    count = config.num_hidden_layers if '{}' in name else 1
    names = [name.replace('{}', str(i)) for i in range(count)]
    tensors += [(n, Tensor(shape, read, block.dtype)) for n in names]
  safetensors.write(folder, tensors)
  write_json(folder / 'config.json', describe_llama(config, 'bfloat16'))
  write_tokenizer(folder)


def write_tokenizer(folder: Path) -> None:
  """Write a byte-level tokenizer with one merge and the tokens of ChatML."""
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers

  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  vocabulary = {token: i for i, token in enumerate([*alphabet, 'ab'])}
  tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, [('a', 'b')]))
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens(['<|im_start|>', '<|im_end|>'])
  tokenizer.save(str(folder / 'tokenizer.json'))
  write_json(folder / 'tokenizer_config.json', {'eos_token': '<|im_end|>'})


def prepare(folder: Path, layers: int) -> None:
  """Write everything that an export reads."""
  write_llama(folder / 'llama', llama_config(layers))
  rngs = nnx.Rngs(0)
  build.save_encoder(whisper.Whisper(ENCODER, rngs=rngs), folder / 'whisper')
  sizes = adapters.StrideAdapterConfig(STACK, ENCODER.d_model, WIDTH, WIDTH)
  (folder / 'workdir').mkdir()
  adapter = adapters.StrideAdapter(sizes, rngs=rngs)
  save_adapter(folder / 'workdir' / build.ADAPTER_FILE, adapter)


def run_in_process(step: str, folder: Path) -> dict[str, float]:
  """Run a step in a new process; return its seconds and additional peak bytes."""
  command = [sys.executable, __file__, f'--step={step}', f'--folder={folder}']
  command.append(f'--format={_FORMAT.value}')
  completed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
  return json.loads(completed.stdout.splitlines()[-1])


def run(step: str, folder: Path) -> None:
  """Run and measure a step in this process, which `run_in_process` started."""
  if step == 'load':
    from transformers import AutoModel
  jnp.zeros(1).block_until_ready()  # starts the backend
  Path('/proc/self/clear_refs').write_text('5')  # resets the peak
  before, start = peak_bytes(), time.monotonic()
  if step == 'export':
    config = defaults.train_config()
    config.llama.update(path=str(folder / 'llama'), dtype='bfloat16')
    config.template = 'chatml'
    config.encoder.path = str(folder / 'whisper')
    config.adapter = {'kind': 'stride', 'stack': STACK, 'hidden_size': WIDTH}
    config.data.update(train=(('none', 1.0),), buckets=(1,))
    workdir = str(folder / 'workdir')
    options = Options(llm=INCLUDE, format=_FORMAT.value)
    export(parse_train(config), folder / 'exported', workdir, options)
  else:
    AutoModel.from_pretrained(
      folder / 'exported', trust_remote_code=True, torch_dtype='auto'
    )
  seconds = time.monotonic() - start
  print(json.dumps({'seconds': seconds, 'bytes': peak_bytes() - before}))


def peak_bytes() -> int:
  """Return the peak resident memory of this process."""
  status = Path('/proc/self/status').read_text()
  (line,) = (line for line in status.splitlines() if line.startswith('VmHWM'))
  return int(line.split()[1]) * 1024


def main(_) -> None:
  """Prepare a model, export it and load the export."""
  if _STEP.value:
    return run(_STEP.value, Path(_FOLDER.value or '.'))
  with tempfile.TemporaryDirectory(dir=_FOLDER.value) as temporary:
    folder = Path(temporary)
    prepare(folder, _LAYERS.value)
    exported = run_in_process('export', folder)
    files = sorted((folder / 'exported').glob('*.gguf'))
    files = files or safetensors.weight_files(folder / 'exported')
    shard_bytes = [path.stat().st_size for path in files]
    trained_bytes = (folder / 'workdir' / build.ADAPTER_FILE).stat().st_size
    trained_bytes += (folder / 'whisper/model.safetensors').stat().st_size
    limit = 1.5 * min(max(shard_bytes), safetensors.SHARD_BYTES) + trained_bytes
    print(f'model: {sum(shard_bytes) / 1e9:.2f} GB in {len(files)} files')
    print(f'export: {exported["seconds"]:.1f} s, peak {exported["bytes"] / 1e9:.2f} GB')
    print(f'1.5 shards and the trained weights: {limit / 1e9:.2f} GB')
    if _FORMAT.value == TRANSFORMERS:
      loaded = run_in_process('load', folder)
      print(f'load: {loaded["seconds"]:.1f} s, peak {loaded["bytes"] / 1e9:.2f} GB')
  result = {
    'seconds': exported['seconds'],
    'peak_over_model_bytes': exported['bytes'] / sum(shard_bytes),
  }
  print_result({key: round(value, 4) for key, value in result.items()})


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  app.run(main)
