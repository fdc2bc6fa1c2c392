# SPDX-License-Identifier: Apache-2.0
"""The paper's experiment with a frozen Llama-2-70B-chat.

  python -m acl_jax.pretrain --config=configs/ctc_mls.py --workdir=runs/ctc_mls
  python -m acl_jax.decode_targets --config=configs/llama2_70b_mls.py
    --input=data/mls/prepared --output=data/mls/targets-70b
  python -m acl_jax.train --config=configs/llama2_70b_mls.py --workdir=runs/70b

As `llama2_7b_mls.py`, but three frames, 240 ms, become one embedding: positions of this
LLM are dear. Its 64 query heads share 8 key/value heads.
Hardware: meant for a slice of 128 TPU v5p or more. Not run: neither hours nor scores
are known.
"""

from ml_collections import ConfigDict

LLAMA = dict(
  vocab_size=32_000,
  hidden_size=8_192,
  intermediate_size=28_672,
  num_hidden_layers=80,
  num_attention_heads=64,
  num_key_value_heads=8,
  head_dim=128,
  rope_theta=1e4,
  rms_norm_eps=1e-5,
  tie_word_embeddings=False,
  max_position_embeddings=4_096,
)

TARGETS = dict(
  max_prompt_tokens=256,
  max_new_tokens=128,
  batch_size=64,
  sampling=dict(temperature=0.0, top_k=0, top_p=1.0),  # greedy
  repeats=6,  # an n-gram so often in a row ends a response
  top_k=0,
  refusals=("I'm sorry", 'I cannot', "I can't", 'As an AI'),
  instructions=(('{}', 1.0),),  # the plain prompt alone
  cache_dtype='',  # of keys and values: the LLM's, or int8
)


def get_config() -> ConfigDict:
  """The experiment."""
  c = ConfigDict()
  c.seed = 0
  c.init_from = ''  # a workdir or an adapter file to start from
  c.shipped_adapter = ''  # none: give --checkpoint
  c.mesh = dict(data=1, fsdp=-1, tensor=1)  # -1: the rest of the devices
  c.llama = dict(
    path='models/llama-2-70b-chat',  # a Hugging Face or Meta folder, or a GGUF file
    dtype='bfloat16',
    sharding='fsdp',  # or replicated: whole on every device
    sizes=LLAMA,
  )
  c.template = 'llama2'
  c.encoder = dict(
    kind='conformer',
    path='runs/ctc_mls/encoder',
    trains=True,
    lr_scale=0.5,  # it was trained before; the map to the LLM was not
    sizes=dict(
      features='kaldi',
      hidden_size=512,
      num_hidden_layers=18,
      num_attention_heads=8,
      intermediate_size=2_048,
      conv_kernel_size=11,
      num_mel_bins=80,
      dropout=0.1,
    ),
  )
  c.adapter = dict(kind='stride', stack=3, hidden_size=None)  # one linear map

  c.data = dict(
    train='data/mls/prepared',
    targets='data/mls/targets-70b',
    leave_out=('empty', 'repetition', 'refusal'),  # responses not to imitate
    copies=1,
    row_frames=512,  # encoder frames, 80 ms: recordings of 41 s in all
    row_tokens=1_024,  # of the LLM: their embeddings, prompts and responses
  )
  c.augmentation = None
  c.masking = None
  c.targets = TARGETS

  c.ctc = dict(steps=0, sampled_classes=1)  # for a CTC adapter only
  c.response = dict(
    steps=200_000,
    frames_per_batch=8_192,
    peak_lr=5e-4,
    warmup_steps=5_000,
    weight_decay=0.0,
    clip_norm=1.0,
    kl_weight=0.0,  # the paper's loss is cross-entropy alone
    kl_temperature=1.0,
    ctc_weight=0.0,
    remat='dots',
    log_every=20,
    save_every=1_000,
  )
  return c.lock()
