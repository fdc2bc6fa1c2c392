# SPDX-License-Identifier: Apache-2.0
"""A published CTC encoder, Parakeet, in front of a frozen Llama-2-7B-chat.

  python -m acl_jax.decode_targets --config=configs/llama2_7b_parakeet.py
    --input=data/mls/prepared --output=data/mls/targets-7b
  python -m acl_jax.train --config=configs/llama2_7b_parakeet.py --workdir=runs/7b

No pretraining: `config.encoder.path` is a folder of NVIDIA's Parakeet CTC as Hugging
Face has it; its own config.json says how large it is. Three of its 80 ms frames become
one embedding, through the projector of Ultravox. The targets are those of
`llama2_7b_mls.py`.
Hardware: meant for a slice of 16 TPU v5e or more. Not run: neither hours nor scores are
known.
"""

from ml_collections import ConfigDict

LLAMA = dict(
  vocab_size=32_000,
  hidden_size=4_096,
  intermediate_size=11_008,
  num_hidden_layers=32,
  num_attention_heads=32,
  num_key_value_heads=32,
  head_dim=128,
  rope_theta=1e4,
  rms_norm_eps=1e-5,
  tie_word_embeddings=False,
  max_position_embeddings=4_096,
)

TARGETS = dict(
  max_prompt_tokens=256,
  max_new_tokens=128,
  batch_size=128,
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
    path='models/llama-2-7b-chat',  # a Hugging Face or Meta folder, or a GGUF file
    dtype='bfloat16',
    sharding='fsdp',  # or replicated: whole on every device
    sizes=LLAMA,
  )
  c.template = 'llama2'
  c.encoder = dict(
    kind='conformer',
    path='models/parakeet-ctc-0.6b',
    trains=True,
    lr_scale=0.1,  # it was trained before; the projector was not
  )
  c.adapter = dict(kind='stride', stack=3, hidden_size=4_096)  # 240 ms, SwiGLU

  c.data = dict(
    train='data/mls/prepared',
    targets='data/mls/targets-7b',
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
    steps=100_000,
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
