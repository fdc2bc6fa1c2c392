# SPDX-License-Identifier: Apache-2.0
"""Whisper base -> CTC adapter -> SmolLM2-135M-Instruct: the adapter that is shipped.

  configs/smol.sh                      # from nothing, the data included

Data: 31.5 h in 46,782 recordings. 45,000 lines made from WordNet by `sentences` and
twice the shipped prompts, said by flite (slt, awb, kal16) and sixteen espeak-ng voices,
and four differently augmented copies of the 297 shipped human recordings.
Training: CTC only, 4,000 steps; the shipped adapter has had no response stage yet
(`response.steps=0`). Its schedule was for 5,000 steps until step 661, then for 4,000.
Time, on two cores of an EPYC: half an hour to speak, 45 min to encode (40 times as fast
as the speech), 60 to train. The script says all lines at once; for the shipped adapter
the last 23,000 were said later, by half of the espeak-ng voices.

To expect, on 200 unseen sentences by two unseen voices (piper joe, flite rms), nats per
response token: text 0.914, audio 1.282, cascade 1.117, cascade_ctc 1.306,
shuffled_audio 2.149, no_prompt 2.002. That closes 70 % of the gap between shuffled
audio and text. Word error rate 25.8 %, Whisper base's own 9.4 %. Without letters and
spelling, 5,000 steps on the same speech gave 64 % and 31.6 %; a third of it 57 %.
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
  steps=60,
  frames_per_batch=2_048,  # 41 s
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
  c.shipped_adapter = 'smol'
  c.mesh = dict(data=-1, fsdp=1, tensor=1)  # -1: the rest of the devices
  c.llama = LLAMA
  c.template = 'chatml'
  c.encoder = dict(
    kind='whisper', path='asset:whisper-base', trains=False, lr_scale=0.1
  )
  c.adapter = dict(
    kind='ctc',
    stack=4,  # 80 ms
    letter_hidden_size=512,
    letter_layers=2,
    hidden_size=768,
    num_layers=2,
    kernel_size=9,
    dropout=0.05,
    spelling_size=128,
  )

  c.data = dict(
    train='data/prepared',
    targets='data/targets',
    leave_out=('empty', 'repetition', 'refusal'),  # responses not to imitate
    copies=1,
    row_frames=None,  # one recording a row, in buckets
    buckets=(64, 96, 128, 192, 256, 384, 512, 1024),  # encoder frames, 20 ms
  )
  c.augmentation = dict(
    speed=0.1, noise_share=0.5, noise_snr=(5.0, 30.0), telephone_share=0.25
  )
  c.targets = TARGETS
  c.ctc = dict(
    steps=4_000,
    frames_per_batch=3_072,  # 61 s
    sampled_classes=2_048,  # of some 23,000
    peak_lr=1.5e-3,
    warmup_steps=200,
    weight_decay=0.01,
    clip_norm=1.0,
    log_every=20,
    save_every=250,
  )
  c.response = RESPONSE
  return c.lock()
