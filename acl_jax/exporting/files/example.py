# SPDX-License-Identifier: Apache-2.0
"""Answer a spoken prompt: python example.py question.wav ["further instructions"]"""

import sys
from pathlib import Path

import soundfile
import torch
from transformers import AutoModel, AutoProcessor

folder = Path(__file__).parent
device = 'cuda' if torch.cuda.is_available() else 'cpu'
model = AutoModel.from_pretrained(folder, trust_remote_code=True).to(device).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)

waveform, sampling_rate = soundfile.read(sys.argv[1], dtype='float32')
content = ' '.join(['<|audio|>', *sys.argv[2:]])
turns = [{'role': 'user', 'content': content}]
text = processor.apply_chat_template(turns, add_generation_prompt=True)
inputs = processor(text, audio=waveform, sampling_rate=sampling_rate).to(device)
response = model.generate(**inputs)[0, inputs['input_ids'].shape[1] :]
print(processor.decode(response, skip_special_tokens=True))
