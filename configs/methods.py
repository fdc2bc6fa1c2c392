# SPDX-License-Identifier: Apache-2.0
"""One row of the table of methods: adapter, what trains of the encoder, and loss.

  python -m acl_jax.train --config=configs/methods.py:attention,lora,kl --workdir=…

adapter: linear, ultravox, ctc or attention. encoder: none, lora or full. loss:
recognition (the CTC or transcription stage alone), ce (then the responses) or kl (with
the divergence to the teacher's likeliest tokens, too). The steps and the audio of a
step are the same in every row. `configs/methods.sh` runs all rows; docs/methods.md says
which have been, and in how many minutes.
"""

from typing import Any

from ml_collections import ConfigDict

from acl_jax.config import defaults

STEPS, RESPONSE_STEPS = 120, 40
FRAMES_PER_BATCH = (
  2_048  # 41 s; of the attention adapter twice that, half of it silence
)
ADAPTERS: dict[str, dict[str, Any]] = {
  'linear': dict(kind='stride', stack=8, hidden_size=None),
  'ultravox': dict(kind='stride', stack=8, hidden_size=2_048),
  'ctc': dict(
    kind='ctc',
    stack=4,
    letter_hidden_size=512,
    letter_layers=2,
    hidden_size=768,
    num_layers=2,
    kernel_size=9,
    dropout=0.05,
    spelling_size=128,
  ),
  'attention': defaults.WHISPER_ATTENTION,
}
LOSSES = ('recognition', 'ce', 'kl')


def get_config(row: str = 'attention,lora,kl') -> ConfigDict:
  """Return the experiment of a row, such as 'attention,lora,kl'."""
  adapter, encoder, loss = _parse(row)
  c = defaults.train_config()
  c.template = 'chatml'
  c.encoder.trains = encoder
  c.encoder.lr_scale = 0.5 if encoder == 'lora' else 0.1
  if encoder == 'lora':
    c.encoder.lora = defaults.ENCODER_LORA
  c.adapter = ADAPTERS[adapter]
  c.data.train = (('data/prepared', 1.0),)
  c.data.targets = 'data/targets'
  c.data.buckets = (96, 144, 224, 384, 768)  # 20 ms
  frames_per_batch = FRAMES_PER_BATCH
  if adapter == 'attention':
    c.encoder.trailing_silence = defaults.WHISPER_SILENCE
    c.data.buckets, frames_per_batch = defaults.WHISPER_BUCKETS, 2 * FRAMES_PER_BATCH
  c.augmentation = defaults.augmentation(speed=0.1, noise_share=0.3)
  c.targets.top_k = 16
  recognises = adapter in ('ctc', 'attention')
  response_steps = 0 if loss == 'recognition' else RESPONSE_STEPS
  stage = dict(frames_per_batch=frames_per_batch, warmup_steps=10, save_every=40)
  if adapter == 'ctc':
    c.ctc = defaults.ctc_stage(steps=STEPS, peak_lr=1.5e-3, **stage)
  if adapter == 'attention':
    c.transcription = defaults.transcription_stage(steps=STEPS, peak_lr=2e-4, **stage)
  c.response = defaults.response_stage(
    steps=response_steps if recognises else STEPS + RESPONSE_STEPS,
    peak_lr=2e-4 if recognises else 1e-3,
    kl_weight=float(loss == 'kl'),
    ctc_weight=0.5 if adapter == 'ctc' else 0.0,
    transcription_weight=0.5 if adapter == 'attention' else 0.0,
    **stage,
  )
  return c.lock()


def _parse(row: str) -> tuple[str, str, str]:
  parts = row.split(',')
  known = tuple(ADAPTERS), ('none', 'lora', 'full'), LOSSES
  if len(parts) != 3:
    raise ValueError(f'row {row!r} is not adapter,encoder,loss')
  for part, names in zip(parts, known, strict=True):
    if part not in names:
      raise ValueError(f'row {row!r}: {part!r} is not one of {", ".join(names)}')
  adapter, encoder, loss = parts
  if loss == 'recognition' and adapter in ('linear', 'ultravox'):
    raise ValueError(f'row {row!r}: a stride adapter does not recognise')
  return adapter, encoder, loss
