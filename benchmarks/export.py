# SPDX-License-Identifier: Apache-2.0
"""How long an export takes and how much memory: random weights of a Llama's shapes.

  .venv/bin/python benchmarks/export.py                  # Llama-2-7B, 27 GB of disk
  .venv/bin/python benchmarks/export.py --layers=1       # one of its 32 layers

The LLM is written as sharded bfloat16 safetensors, then exported with an encoder of
Whisper base's size and a projector of Ultravox's kind, each in a process of its own; so
is the loading in PyTorch. Peak memory is the kernel's count of resident pages, those of
mapped files included, less what the process has after its imports. Linux only. The last
line printed is JSON.
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
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from acl_jax import build
from acl_jax.export import INCLUDE, Options, export
from acl_jax.exporting.description import write_json
from acl_jax.models import adapters, llama, whisper
from acl_jax.weights import safetensors, table
from acl_jax.weights.adapter import save_adapter
from acl_jax.weights.configuration import sizes
from acl_jax.weights.huggingface import LLAMA, describe_llama
from acl_jax.weights.table import Tensor

_LAYERS = flags.DEFINE_integer('layers', 32, 'of the Llama', lower_bound=1)
_FOLDER = flags.DEFINE_string('folder', None, 'for the models; else a temporary one')
_STEP = flags.DEFINE_enum(
  'step', None, ['export', 'load'], 'used by the program itself'
)

VOCABULARY, WIDTH, STACK = 32_000, 4_096, 8
ENCODER = whisper.WhisperConfig(80, 512, 6, 8, 2_048, 1_500)


def llama_config(layers: int) -> llama.LlamaConfig:
  """Llama-2-7B's, but for the number of layers."""
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
  """Random weights, a tensor at a time; a block of them is repeated."""
  folder.mkdir()
  block = np.random.default_rng(0).normal(0, 0.02, 1 << 20).astype(ml_dtypes.bfloat16)
  tensors = []
  for name, _, layout in LLAMA:
    shape = table.foreign_shape(layout, sizes(config))
    read = lambda shape=shape: np.resize(block, shape)  # noqa: E731
    count = config.num_hidden_layers if '{}' in name else 1
    names = [name.replace('{}', str(i)) for i in range(count)]
    tensors += [(n, Tensor(shape, read, block.dtype)) for n in names]
  safetensors.write(folder, tensors)
  write_json(folder / 'config.json', describe_llama(config, 'bfloat16'))
  write_tokenizer(folder)


def write_tokenizer(folder: Path) -> None:
  """Bytes, and words that nobody says."""
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers

  signs = sorted(pre_tokenizers.ByteLevel.alphabet())
  made = tokenizers.Tokenizer(models.BPE({s: i for i, s in enumerate(signs)}, []))
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  made.add_special_tokens(['<|im_start|>', '<|im_end|>'])
  made.save(str(folder / 'tokenizer.json'))
  write_json(folder / 'tokenizer_config.json', {'eos_token': '<|im_end|>'})


def prepare(folder: Path, layers: int) -> None:
  """All that an export reads."""
  write_llama(folder / 'llama', llama_config(layers))
  rngs = nnx.Rngs(0)
  build.save_encoder(whisper.Whisper(ENCODER, rngs=rngs), folder / 'whisper')
  sizes = adapters.StrideAdapterConfig(STACK, ENCODER.d_model, WIDTH, WIDTH)
  (folder / 'workdir').mkdir()
  adapter = adapters.StrideAdapter(sizes, rngs=rngs)
  save_adapter(folder / 'workdir' / build.ADAPTER_FILE, adapter)


def measured(step: str, folder: Path) -> dict[str, float]:
  """Seconds, and bytes above those after the imports, of a step in a new process."""
  command = [sys.executable, __file__, f'--step={step}', f'--folder={folder}']
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])


def run(step: str, folder: Path) -> None:
  """What `measured` starts."""
  if step == 'load':
    from transformers import AutoModel
  jnp.zeros(1).block_until_ready()  # starts the backend
  Path('/proc/self/clear_refs').write_text('5')  # the peak is what it is now
  before, start = peak_bytes(), time.monotonic()
  if step == 'export':
    config = ConfigDict()
    config.llama = {'path': str(folder / 'llama'), 'dtype': 'bfloat16'}
    config.encoder = {'kind': 'whisper', 'path': str(folder / 'whisper')}
    config.template = 'chatml'
    workdir = str(folder / 'workdir')
    export(config, folder / 'exported', workdir, Options(llm=INCLUDE))
  else:
    AutoModel.from_pretrained(
      folder / 'exported', trust_remote_code=True, torch_dtype='auto'
    )
  seconds = time.monotonic() - start
  print(json.dumps({'seconds': seconds, 'bytes': peak_bytes() - before}))


def peak_bytes() -> int:
  """The most that was resident."""
  status = Path('/proc/self/status').read_text()
  (line,) = (line for line in status.splitlines() if line.startswith('VmHWM'))
  return int(line.split()[1]) * 1024


def main(_) -> None:
  """Prepares, exports, loads."""
  if _STEP.value:
    return run(_STEP.value, Path(_FOLDER.value or '.'))
  with tempfile.TemporaryDirectory(dir=_FOLDER.value) as made:
    folder = Path(made)
    prepare(folder, _LAYERS.value)
    exported = measured('export', folder)
    files = safetensors.files(folder / 'exported')
    lengths = [path.stat().st_size for path in files]
    trainable = (folder / 'workdir' / build.ADAPTER_FILE).stat().st_size
    trainable += (folder / 'whisper/model.safetensors').stat().st_size
    limit = 1.5 * max(lengths) + trainable
    print(f'model: {sum(lengths) / 1e9:.2f} GB in {len(files)} files')
    print(f'export: {exported["seconds"]:.1f} s, peak {exported["bytes"] / 1e9:.2f} GB')
    print(f'1.5 shards and what is trained: {limit / 1e9:.2f} GB')
    loaded = measured('load', folder)
    print(f'load: {loaded["seconds"]:.1f} s, peak {loaded["bytes"] / 1e9:.2f} GB')
  share = exported['bytes'] / sum(lengths)
  result = {'seconds': exported['seconds'], 'peak_over_model_bytes': share}
  print(json.dumps({key: round(value, 4) for key, value in result.items()}))


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  app.run(main)
