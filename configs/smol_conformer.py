# SPDX-License-Identifier: Apache-2.0
"""smol_ctc's Conformer -> CTC adapter -> SmolLM2-135M-Instruct.

  configs/smol_ctc.sh           # from nothing, encoder and data included
  python -m acl_jax.train --config=configs/smol_conformer.py --workdir=runs/smol_on_ctc

The encoder is frozen; its 80 ms frames are too few for letters. Run for the 1,500 steps
of CTC, 12 minutes on two CPU cores, and none of responses. Nats per response token of
300 unseen sentences, what share of the gap between another sentence's recording and the
text is closed, and word error rates:

                           voices heard before   never heard (flite:rms)
  text                       0.890     100 %        0.890     100 %
  the recording              0.930      95 %        1.183      66 %
  our hard transcript        0.932      95 %        1.191      65 %
  Whisper base's transcript  1.046      82 %        not measured
  another's recording        1.773       0 %        1.753       0 %
  word errors, ours and Whisper base's: 4.6 % and 9.9 %; 27 % by the new voice.

It beats its cascade on voices and 500 words that it knows, and on nothing else.
"""

from ml_collections import ConfigDict

TARGETS = dict(
  max_prompt_tokens=128,
  max_new_tokens=32,
  batch_size=32,
  sampling=dict(temperature=0.0, top_k=0, top_p=1.0),  # greedy
  repeats=6,  # an n-gram so often in a row ends a response
  top_k=16,
  refusals=("I'm sorry", 'I cannot', "I can't", 'As an AI'),
  instructions=(('{}', 1.0),),  # the plain prompt alone
  cache_dtype='',  # of keys and values: the LLM's, or int8
)

RESPONSE = dict(
  steps=0,  # none: CTC alone, so no responses need be decoded
  frames_per_batch=500,  # 40 s
  peak_lr=2e-4,
  warmup_steps=10,
  weight_decay=0.0,
  clip_norm=1.0,
  kl_weight=1.0,
  kl_temperature=1.0,
  ctc_weight=0.5,
  remat=None,
  log_every=5,
  save_every=20,
)

LLAMA = dict(path='asset:smollm2-135m-instruct', dtype='float32', sharding='replicated')


def get_config() -> ConfigDict:
  """The experiment."""
  c = ConfigDict()
  c.seed = 0
  c.init_from = ''  # a workdir or an adapter file to start from
  c.shipped_adapter = ''  # none: give --checkpoint
  c.mesh = dict(data=-1, fsdp=1, tensor=1)  # -1: the rest of the devices
  c.llama = LLAMA
  c.template = 'chatml'
  c.encoder = dict(
    kind='conformer', path='runs/smol_ctc/encoder', trains=False, lr_scale=0.1
  )
  c.adapter = dict(
    kind='ctc',
    stack=1,  # 80 ms, too few for letters
    letter_hidden_size=0,
    letter_layers=0,
    hidden_size=512,
    num_layers=2,
    kernel_size=9,
    dropout=0.05,
    spelling_size=128,
  )

  c.data = dict(
    train='runs/smol_ctc/prepared',
    targets='runs/smol_ctc/targets',
    leave_out=('empty', 'repetition', 'refusal'),  # responses not to imitate
    copies=1,
    row_frames=None,  # one recording a row, in buckets
    buckets=(16, 24, 32, 40, 56, 100),  # encoder frames, 80 ms
  )
  c.augmentation = dict(
    speed=0.05, noise_share=0.25, noise_snr=(10.0, 40.0), telephone_share=0.1
  )
  c.targets = TARGETS
  c.ctc = dict(
    steps=1_500,
    frames_per_batch=1_200,  # 96 s
    sampled_classes=2_048,  # of some 18,000
    peak_lr=1.5e-3,
    warmup_steps=200,
    weight_decay=0.01,
    clip_norm=1.0,
    log_every=20,
    save_every=250,
  )
  c.response = RESPONSE
  return c.lock()
