# SPDX-License-Identifier: Apache-2.0
"""The shipped recipe with Ultravox's projector, which vLLM and llama.cpp know.

  python -m acl_jax.train --config=configs/smol_stride.py --workdir=WORK/stride
    --config.data.train=WORK/speech/prepared --config.data.targets=WORK/targets

`configs/smol.sh WORK` makes speech and targets; it is the same for all configs of smol.

Whisper base with low-rank updates, 6 frames stacked (120 ms), Ultravox's projector. One
stage as in the paper: the cross-entropy of the responses, nothing else, to the same
utterances and instructions as configs/smol.py, whose targets it reads. The projector
has 3.4 M parameters, the updates 1.8 M: 10 MB in half precision.

With 8 frames behind Whisper base llama.cpp aborts, see docs/export.md. It fills every
clip with silence up to 30 s: here 3 s follow each utterance, so that the model learns
to read silence after speech.

Not run yet: there are no results.
"""

from ml_collections import ConfigDict

from acl_jax.config import defaults


def get_config() -> ConfigDict:
  """Return the experiment."""
  c = defaults.train_config()
  c.template = 'chatml'
  c.encoder.trailing_silence = defaults.WHISPER_SILENCE
  c.encoder.trains = 'lora'
  c.encoder.lora = defaults.ENCODER_LORA
  c.encoder.lr_scale = 0.2
  c.adapter = dict(kind='stride', stack=6, hidden_size=1_024)

  c.data.train = (('data/prepared', 1.0),)
  c.data.targets = 'data/targets'
  c.data.buckets = defaults.WHISPER_BUCKETS
  c.augmentation = defaults.augmentation(
    speed=0.1,
    noise_share=0.25,
    babble_share=0.25,
    music_share=0.1,
    reverberation_share=0.2,
    telephone_share=0.05,
    line_share=0.08,
    mu_law_share=0.5,
    clipping_share=0.05,
  )
  c.masking = dict(mel_masks=1, mel_width=12, time_masks=1, time_share=0.04)
  c.targets.top_k = 16
  c.targets.instructions = (
    ('{}', 0.5),
    ('Repeat the following word for word: {}', 0.14),
    ('{}\n\nRepeat the text above word for word.', 0.1),
    ('Summarise this in one sentence: {}', 0.08),
    ('Continue this text: {}', 0.08),
    ('Translate this into French: {}', 0.05),
    ('{}\n\nWhat is this about? Answer with one word.', 0.05),
  )

  c.response = defaults.response_stage(
    steps=2_000,
    frames_per_batch=3_072,  # 61 s, half of it silence
    peak_lr=1e-3,
    warmup_steps=50,
    save_every=100,
  )
  return c.lock()
