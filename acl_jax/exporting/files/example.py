# SPDX-License-Identifier: Apache-2.0
"""Answer a spoken prompt: python example.py question.wav ["further instructions"]"""

import sys
from pathlib import Path

import soundfile
import torch
from transformers import AutoModel, AutoProcessor

MIN_SECONDS, MAX_SECONDS = 0.025, 300.0


def read(path):
  """Return samples and their rate; ends in one sentence if they cannot be used."""
  try:
    with soundfile.SoundFile(path) as file:
      rate = file.samplerate
      # The length in the header may be wrong.
      waveform = file.read(int(MAX_SECONDS * rate) + 1, dtype='float32')
  except (OSError, soundfile.LibsndfileError) as error:
    sys.exit(
      f'{path}: cannot be read as audio ({error}); convert it: ffmpeg -i FILE'
      ' -ar 16000 -ac 1 question.wav'
    )
  seconds = len(waveform) / rate
  if not MIN_SECONDS <= seconds <= MAX_SECONDS:
    length = f'has {seconds:.3f} s' if seconds < MIN_SECONDS else 'is too long'
    sys.exit(f'{path}: {length} of audio; the limits are 0.025 and 300 s')
  return waveform, rate


if len(sys.argv) < 2:
  sys.exit(__doc__)
waveform, sampling_rate = read(sys.argv[1])
folder = Path(__file__).parent
device = 'cuda' if torch.cuda.is_available() else 'cpu'
model = AutoModel.from_pretrained(folder, trust_remote_code=True).to(device).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
content = ' '.join(['<|audio|>', *sys.argv[2:]])
turns = [{'role': 'user', 'content': content}]
text = processor.apply_chat_template(turns, add_generation_prompt=True)
inputs = processor(text, audio=waveform, sampling_rate=sampling_rate).to(device)
response = model.generate(**inputs)[0, inputs['input_ids'].shape[1] :]
print(processor.decode(response, skip_special_tokens=True))
