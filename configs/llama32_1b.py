# SPDX-License-Identifier: Apache-2.0
"""A published encoder in front of a frozen Llama-3.2-1B-Instruct.

  python -m acl_jax.decode_targets --config=configs/llama32_1b.py
    --input=data/prepared --output=data/targets-1b
  python -m acl_jax.train --config=configs/llama32_1b.py --workdir=runs/1b
  python -m acl_jax.train --config=configs/llama32_1b.py:whisper --workdir=runs/1b

The encoder is NVIDIA's Parakeet CTC 0.6B or, with `:whisper`, that of Whisper
large-v3-turbo, which Ultravox has. There is no pretraining: all paths are Hugging Face
folders. The LLM is small enough for a copy on every chip.
Hardware: intended for a slice of at least 4 TPU v5e. Not run yet: hours and scores
are unknown. docs/tpu_pods.md has plans of it.
"""

from ml_collections import ConfigDict

from acl_jax.config import defaults, published


def get_config(encoder: str = 'parakeet') -> ConfigDict:
  """Return the experiment; encoder: 'parakeet' or 'whisper'."""
  c = defaults.train_config()
  c.mesh.update(data=1, fsdp=-1)
  c.llama.update(
    path='models/llama-3.2-1b-instruct',
    dtype='bfloat16',
    sharding='replicated',
  )
  c.llama.sizes = published.llama3_sizes(
    rope_factor=32.0,
    hidden_size=2_048,
    intermediate_size=8_192,
    num_hidden_layers=16,
    head_dim=64,
    tie_word_embeddings=True,
  )
  published.set_encoder(c, encoder, width=2_048)

  c.data.train = (('data/prepared', 1.0),)
  c.data.targets = 'data/targets-1b'
  c.data.row_tokens = 1_024
  c.targets.update(max_prompt_tokens=256, max_new_tokens=128, batch_size=128)

  c.response = defaults.response_stage(
    steps=100_000,
    frames_per_batch=64 * c.data.row_frames,  # 44 minutes
    peak_lr=5e-4,
    warmup_steps=5_000,
    remat='dots',
  )
  return c.lock()
