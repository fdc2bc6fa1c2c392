# SPDX-License-Identifier: Apache-2.0
"""A published CTC encoder, Parakeet, in front of a frozen Llama-2-7B-chat.

  python -m acl_jax.decode_targets --config=configs/llama2_7b_parakeet.py
    --input=data/mls/prepared --output=data/mls/targets-7b
  python -m acl_jax.train --config=configs/llama2_7b_parakeet.py --workdir=runs/7b

There is no pretraining: `config.encoder.path` is a Hugging Face folder of NVIDIA's
Parakeet CTC, whose config.json has its sizes. The projector of Ultravox maps three of
its 80 ms frames to one embedding. The targets are those of `llama2_7b_mls.py`.
Hardware: intended for a slice of at least 16 TPU v5e. Not run yet: hours and scores are
unknown.
"""

from ml_collections import ConfigDict

from acl_jax.config import defaults


def get_config() -> ConfigDict:
  """Return the experiment."""
  c = defaults.train_config()
  c.mesh.update(data=1, fsdp=-1)
  c.llama.update(
    path='models/llama-2-7b-chat',
    dtype='bfloat16',
    sharding='fsdp',
  )
  c.llama.sizes = defaults.llama2_sizes(
    hidden_size=4_096,
    intermediate_size=11_008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
  )
  c.template = 'llama2'
  c.encoder = dict(
    kind='conformer',
    path='models/parakeet-ctc-0.6b',
    trains='full',
    lr_scale=0.1,  # the encoder is pretrained; the projector is not
    sizes=None,
  )
  c.adapter = dict(
    kind='stride',
    stack=3,  # 240 ms
    hidden_size=4_096,  # Ultravox's projector
  )

  c.data.train = (('data/mls/prepared', 1.0),)
  c.data.targets = 'data/mls/targets-7b'
  c.data.row_frames = 512  # 41 s at 80 ms
  c.data.row_tokens = 1_024
  c.targets.update(max_prompt_tokens=256, max_new_tokens=128, batch_size=128)

  c.response = defaults.response_stage(
    steps=100_000,
    frames_per_batch=8_192,
    peak_lr=5e-4,
    warmup_steps=5_000,
    remat='dots',
  )
  return c.lock()
