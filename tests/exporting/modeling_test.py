# SPDX-License-Identifier: Apache-2.0
"""Exported models of every kind compared with the JAX models."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from transformers import AutoModelForCausalLM, TextIteratorStreamer, pipeline

from acl_jax.models.speech_llm import Prompt
from acl_jax.text.layout import NO_AUDIO, layout_prompt
from acl_jax.text.templates import Audio, Turn
from data_pipeline.batches import pad, pad_frames
from data_pipeline.features import Frontend
from tests.exporting.conftest import export_tiny, noise_clips

# Two conversations of unequal length, with three clips in one turn and in several.
CONVERSATIONS = (
  (Turn('user', ('go ', Audio(0), ' or ', Audio(1), ' now')),),
  (
    Turn('system', 'yes'),
    Turn('user', (Audio(2),)),
    Turn('assistant', 'no'),
    Turn('user', 'stop'),
  ),
)
CLIPS = noise_clips(9_200, 14_000, 5_700)  # 57, 87 and 35 frames: none divides evenly


def to_messages(conversation):
  """Convert a conversation to the messages of Transformers."""
  messages = []
  for turn in conversation:
    parts = [turn.content] if isinstance(turn.content, str) else turn.content
    text = ''.join('<|audio|>' if isinstance(p, Audio) else p for p in parts)
    messages.append({'role': turn.role, 'content': text})
  return messages


def make_inputs(processor, conversations=CONVERSATIONS, clips=CLIPS):
  texts = [
    processor.apply_chat_template(to_messages(c), add_generation_prompt=True)
    for c in conversations
  ]
  return processor(texts, audio=clips or None)


def jax_logits(exported):
  """Return the JAX model's logits [b t v] and mask [b t], padded at the end."""
  model, text = exported.load_jax()
  encoder = model.encoder.config
  log_mels = [Frontend.of(encoder).log_mel(clip) for clip in CLIPS]
  audio = pad_frames(log_mels, len(log_mels), max(map(len, log_mels)))
  frames = -(-np.array([len(mel) for mel in log_mels]) // encoder.subsampling)
  positions = -(-frames // model.adapter.config.stack)
  slots = max(positions)
  clips = [range(i * slots, i * slots + n) for i, n in enumerate(positions)]
  rows = [layout_prompt(text.conversation_prompt(c), clips) for c in CONVERSATIONS]
  lengths = [len(row.tokens) for row in rows]
  shape = (len(rows), max(lengths))
  prompt = Prompt(
    tokens=pad([row.tokens for row in rows], shape, 0, np.int32),
    audio_index=pad([row.audio_index for row in rows], shape, NO_AUDIO, np.int32),
    segment_ids=pad([[1] * length for length in lengths], shape, 0, np.int32),
  )
  logits, mask = compute_logits(model, *jax.tree.map(jnp.asarray, (prompt, *audio)))
  return np.asarray(logits), np.asarray(mask), lengths


@jax.jit
def compute_logits(model, prompt, log_mel, frame_mask):
  embeddings, embedding_mask = model.encode_audio(log_mel, frame_mask)
  rows, width = len(prompt.tokens), embeddings.shape[2]
  audio = jnp.repeat(embeddings.reshape(1, -1, width), rows, axis=0)
  audio_mask = jnp.repeat(embedding_mask.reshape(1, -1), rows, axis=0)
  x, segment_ids = model.splice(prompt, audio, audio_mask)
  return model.llama.logits(model.hidden_states(x, segment_ids)), segment_ids > 0


def test_logits_equal_those_of_jax(exported, loaded):
  model, processor = loaded
  inputs = make_inputs(processor)
  logits = model(**inputs).logits.numpy()
  keys = ('input_ids', 'attention_mask', 'audio_values', 'audio_lens')
  _, mask = model.embed_prompt(*(inputs[key] for key in keys))
  expected_logits, expected_mask, lengths = jax_logits(exported)
  assert inputs['attention_mask'].sum(1).tolist() == lengths
  for row, length in enumerate(lengths):  # Transformers pads at the start
    row_mask = expected_mask[row, :length]
    np.testing.assert_array_equal(mask[row, -length:] > 0, row_mask)
    np.testing.assert_allclose(
      logits[row, -length:][row_mask],
      expected_logits[row, :length][row_mask],
      atol=1e-4,
    )


def test_ctc_projector_leaves_positions_empty(loaded_ctc):
  model, processor = loaded_ctc
  inputs = make_inputs(processor)
  _, position_mask, embedding_mask = model.encode_audio(
    inputs['audio_values'], inputs['audio_lens']
  )
  assert 0 < embedding_mask.sum() < position_mask.sum()
  assert int(inputs['audio_token_len'].sum()) == int(position_mask.sum())


def test_batched_generation_equals_single(loaded):
  model, processor = loaded
  options = dict(max_new_tokens=7, eos_token_id=None)
  batch = model.generate(**make_inputs(processor), **options)
  for row, conversation, clips in zip(
    batch, CONVERSATIONS, (CLIPS[:2], CLIPS[2:]), strict=True
  ):
    inputs = make_inputs(processor, [conversation], clips)
    [single] = model.generate(**inputs, **options)
    assert row[-7:].tolist() == single[-7:].tolist()
    assert row[-len(single) :].tolist() == single.tolist()


def test_text_without_audio_equals_the_llm(exported_ctc, loaded_ctc):
  model, processor = loaded_ctc
  inputs = make_inputs(processor, [(Turn('user', 'go on'),)], None)
  assert 'audio_values' not in inputs
  logits = model(**inputs).logits
  jax_model, text = exported_ctc.load_jax()
  [ids] = text.prompt('go on')
  assert inputs['input_ids'].tolist() == [list(ids)]
  positions = jnp.arange(len(ids))[None]
  causal_mask = jnp.tril(jnp.ones((1, len(ids), len(ids)), bool))

  @jax.jit
  def compute_text_logits(llama, tokens):
    hidden, _ = llama(llama.embed(tokens), positions, causal_mask)
    return llama.logits(hidden)

  expected = compute_text_logits(jax_model.llama, jnp.asarray([ids]))
  np.testing.assert_allclose(logits.numpy(), expected, atol=1e-4)
  plain = model.language_model.generate(**inputs, max_new_tokens=5, do_sample=False)
  assert model.generate(**inputs, max_new_tokens=5).tolist() == plain.tolist()


@pytest.mark.parametrize('beams', [1, 2])
def test_several_responses_per_prompt(loaded_ctc, beams):
  model, processor = loaded_ctc
  torch.manual_seed(0)
  inputs = make_inputs(processor)
  output = model.generate(
    **inputs,
    max_new_tokens=4,
    return_dict_in_generate=True,
    num_return_sequences=2,
    num_beams=beams,
    do_sample=True,
    top_k=9,
  )
  prompts = inputs['input_ids'].repeat_interleave(2, 0)
  assert output.sequences[:, : prompts.shape[1]].tolist() == prompts.tolist()
  assert len(output.sequences) == 4


def test_responses_can_be_streamed(loaded_ctc):
  model, processor = loaded_ctc
  inputs = make_inputs(processor, CONVERSATIONS[:1], CLIPS[:2])
  options = dict(max_new_tokens=9, eos_token_id=None)
  response = model.generate(**inputs, **options)[0, inputs['input_ids'].shape[1] :]
  streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
  arguments = {**inputs, **options, 'streamer': streamer}
  thread = threading.Thread(target=model.generate, kwargs=arguments)
  thread.start()
  pieces = list(streamer)
  thread.join()
  assert ''.join(pieces) == processor.decode(response)


def test_saved_again_gives_the_same_logits(exported, loaded, tmp_path):
  model, processor = loaded
  inputs = make_inputs(processor)
  model.save_pretrained(tmp_path / 'saved_again')
  processor.save_pretrained(tmp_path / 'saved_again')
  copy, processor = exported._replace(folder=tmp_path / 'saved_again').load()
  copy_inputs = make_inputs(processor)
  assert copy_inputs.keys() == inputs.keys()
  np.testing.assert_array_equal(copy_inputs['input_ids'], inputs['input_ids'])
  logits, copy_logits = model(**inputs).logits, copy(**copy_inputs).logits
  np.testing.assert_allclose(copy_logits, logits, atol=1e-6)


def test_pipeline_equals_generate(exported_ctc, loaded_ctc):
  model, processor = loaded_ctc
  pipe = pipeline(model=str(exported_ctc.folder), trust_remote_code=True)
  text = pipe({'audio': CLIPS[0], 'sampling_rate': 16_000}, max_new_tokens=5)
  inputs = make_inputs(processor, [(Turn('user', (Audio(0),)),)], CLIPS[:1])
  start = inputs['input_ids'].shape[1]
  response = model.generate(**inputs, max_new_tokens=5)[0, start:]
  assert text == processor.decode(response, skip_special_tokens=True).strip()


def test_encoder_and_projector_stay_in_float32(exported_ctc):
  model, processor = exported_ctc.load(torch_dtype=torch.bfloat16)
  assert model.language_model.lm_head.weight.dtype == torch.bfloat16
  assert {p.dtype for p in model.audio_tower.parameters()} == {torch.float32}
  assert {p.dtype for p in model.multi_modal_projector.parameters()} == {torch.float32}
  assert model(**make_inputs(processor)).logits.isfinite().all()


def test_names_and_shapes_equal_those_of_ultravox(export_kind):
  model, _ = export_kind('swiglu').load()
  shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
  hidden, width, stack, llm = 14, 12, 3, 24
  projector = {
    'ln_pre.weight': (stack * width,),
    'linear_1.weight': (hidden, stack * width),
    'ln_mid.weight': (hidden // 2,),
    'linear_2.weight': (llm, hidden // 2),
  }
  for name, shape in projector.items():
    assert shapes[f'multi_modal_projector.{name}'] == shape
  assert 'audio_tower.conv1.weight' in shapes
  assert 'audio_tower.layers.0.self_attn.k_proj.weight' in shapes
  config = model.config
  assert (config.stack_factor, config.hidden_size) == (stack, hidden)
  assert (config.projector_act, config.projector_ln_mid) == ('swiglu', True)
  assert config.num_projector_layers == 0 and config.text_model_id is None


def test_llm_outside_the_folder(export_kind, tiny_world, tmp_path):
  """It is loaded if its files are the same, and not saved again."""
  exported = export_tiny(tiny_world, tmp_path, 'linear', llm='reference')
  model, processor = exported.load()
  assert not any('language_model' in name for name in tensor_names(exported.folder))
  whole, _ = export_kind('linear').load()
  inputs = make_inputs(processor)
  np.testing.assert_allclose(model(**inputs).logits, whole(**inputs).logits, atol=1e-6)
  model.save_pretrained(tmp_path / 'again')
  assert not any('language_model' in name for name in tensor_names(tmp_path / 'again'))
  path = exported.folder / 'config.json'
  key = '"model.safetensors": "'
  path.write_text(path.read_text().replace(key, key + '0'))
  with pytest.raises(ValueError, match=r'model\.safetensors: sha256 .* 0[0-9a-f]{64}$'):
    exported.load()


def tensor_names(folder):
  with safe_open(folder / 'model.safetensors', 'np') as file:
    return list(file.keys())


def test_loads_as_a_causal_language_model(exported_ctc):
  model = AutoModelForCausalLM.from_pretrained(
    exported_ctc.folder, trust_remote_code=True
  )
  assert type(model).__name__ == 'AudioChatLlamaModel'


def test_wrong_audio_lengths_raise(loaded_ctc):
  model, processor = loaded_ctc
  inputs = make_inputs(processor)
  reserved = int(inputs['audio_token_len'].sum())
  inputs['audio_lens'][1] -= 100
  with pytest.raises(ValueError, match=f'input_ids .*{reserved}.*audio.* [0-9]+$'):
    model(**inputs)


def test_transformers_version_is_supported():
  major, minor = map(int, transformers.__version__.split('.')[:2])
  assert (major, minor) == (4, 57) or major == 5
  assert jax.default_backend() == 'cpu'
