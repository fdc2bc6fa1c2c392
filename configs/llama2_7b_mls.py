# SPDX-License-Identifier: Apache-2.0
"""The paper's experiment: a Conformer in front of a frozen Llama-2-7B-chat.

  python -m acl_jax.pretrain --config=configs/ctc_mls.py --workdir=runs/ctc_mls
  python -m acl_jax.decode_targets --config=configs/llama2_7b_mls.py
    --input=data/mls/prepared --output=data/mls/targets-7b
  python -m acl_jax.train --config=configs/llama2_7b_mls.py --workdir=runs/7b

The method of Fathullah et al. (AudioChatLlama): the Conformer of `ctc_mls.py`, a
linear map from its 80 ms frames to the LLM's width, and cross-entropy on the frozen
LLM's own responses to the transcripts of Multilingual LibriSpeech, English (44,500
hours).
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
    path='runs/ctc_mls/encoder',
    trains='full',
    lr_scale=0.5,  # the encoder is pretrained; the linear map is not
    sizes=defaults.PAPER_CONFORMER,
  )
  c.adapter = dict(kind='stride', stack=1, hidden_size=None)  # one linear map

  c.data.train = (('data/mls/prepared', 1.0),)
  c.data.targets = 'data/mls/targets-7b'
  c.data.row_frames = 512  # 41 s at 80 ms
  c.data.row_tokens = 1_024
  c.targets.update(max_prompt_tokens=256, max_new_tokens=128, batch_size=128)

  c.response = defaults.response_stage(
    steps=200_000,
    frames_per_batch=8_192,
    peak_lr=5e-4,
    warmup_steps=5_000,
    remat='dots',
  )
  return c.lock()
