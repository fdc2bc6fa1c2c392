# SPDX-License-Identifier: Apache-2.0
"""The exported model beside the JAX model, of every kind."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, TextIteratorStreamer, pipeline

from acl_jax.models.speech_llm import Prompt
from acl_jax.text.layout import NO_AUDIO, layout_prompt
from acl_jax.text.templates import Audio, Turn
from data_pipeline.batches import pad, pad_frames
from data_pipeline.features import features
from tests.exporting.conftest import make, sounds

# Two conversations of unequal length: three audios, in one turn and in several.
CONVERSATIONS = (
  (Turn('user', ('go ', Audio(0), ' or ', Audio(1), ' now')),),
  (
    Turn('system', 'yes'),
    Turn('user', (Audio(2),)),
    Turn('assistant', 'no'),
    Turn('user', 'stop'),
  ),
)
SOUNDS = sounds(9_200, 14_000, 5_700)  # 57, 87 and 35 frames: odd, so cut in two


def turns(conversation):
  """The conversation as Transformers has it."""
  said = []
  for turn in conversation:
    parts = [turn.content] if isinstance(turn.content, str) else turn.content
    text = ''.join('<|audio|>' if isinstance(p, Audio) else p for p in parts)
    said.append({'role': turn.role, 'content': text})
  return said


def prepare(processor, conversations=CONVERSATIONS, audio=SOUNDS):
  texts = [
    processor.apply_chat_template(turns(c), add_generation_prompt=True)
    for c in conversations
  ]
  return processor(texts, audio=audio or None)


def reference(world):
  """Logits [t v] of each conversation by the JAX model, and what is in them."""
  model, text = world.ours()
  encoder = model.encoder.config
  log_mel = features(encoder.features).log_mel
  mels = [log_mel(sound, encoder.num_mel_bins) for sound in SOUNDS]
  length = max(map(len, mels))
  padded = map(jnp.asarray, pad_frames(mels, len(mels), length))
  heard, valid = jax.jit(lambda m, *x: m.hear(*x))(model, *padded)
  frames = -(-np.array([len(mel) for mel in mels]) // encoder.subsampling)
  places = -(-frames // model.adapter.config.stack)
  slots = heard.shape[1]
  clips = [range(i * slots, i * slots + n) for i, n in enumerate(places)]
  for conversation in CONVERSATIONS:
    row = layout_prompt(text.converse(conversation), clips)
    parts = (row.tokens, row.audio_index, [1] * len(row.tokens))
    fills = (0, NO_AUDIO, 0)
    shape = (1, len(row.tokens))
    arrays = [pad([p], shape, f, np.int32) for p, f in zip(parts, fills, strict=True)]
    prompt = Prompt._make(map(jnp.asarray, arrays))
    flat = heard.reshape(1, -1, heard.shape[2]), valid.reshape(1, -1)
    logits, ids = read(model, prompt, *flat)
    yield np.asarray(logits[0]), np.asarray(ids[0] > 0), row


@jax.jit
def read(model, prompt, heard, valid):
  x, ids = model.splice(prompt, heard, valid)
  return model.llama.logits(model.read(x, ids)), ids


def test_logits_are_those_of_jax(world):
  model, processor = world.load()
  inputs = prepare(processor)
  logits = model(**inputs).logits.numpy()
  _, mask = model.embed(*(inputs[key] for key in list(inputs)[:4]))
  for ours, seen, row, theirs, there, whole in zip(
    *zip(*reference(world), strict=True),
    logits,
    mask.numpy(),
    inputs['attention_mask'],
    strict=True,
  ):
    size = len(row.tokens)
    assert whole.sum() == size
    np.testing.assert_array_equal(there[-size:] > 0, seen)
    np.testing.assert_allclose(theirs[-size:][seen], ours[seen], atol=1e-4)


def test_a_recogniser_leaves_places_empty(letters):
  model, processor = letters.load()
  inputs = prepare(processor)
  _, places, heard = model.hear(inputs['audio_values'], inputs['audio_lens'])
  assert 0 < heard.sum() < places.sum()
  assert int(inputs['audio_token_len'].sum()) == int(places.sum())


def test_a_batch_answers_as_each_alone(world):
  model, processor = world.load()
  how = dict(max_new_tokens=7, eos_token_id=None)
  together = model.generate(**prepare(processor), **how)
  first = model.generate(**prepare(processor, CONVERSATIONS[:1], SOUNDS[:2]), **how)
  second = model.generate(**prepare(processor, CONVERSATIONS[1:], SOUNDS[2:]), **how)
  for row, alone in zip(together, (first, second), strict=True):
    assert row[-7:].tolist() == alone[0, -7:].tolist()
    assert row[-len(alone[0]) :].tolist() == alone[0].tolist()


def test_text_alone_is_the_llama_itself(letters):
  model, processor = letters.load()
  inputs = prepare(processor, [(Turn('user', 'go on'),)], None)
  assert 'audio_values' not in inputs
  logits = model(**inputs).logits
  ours, text = letters.ours()
  ids = text.prompt('go on')[0]
  assert inputs['input_ids'].tolist() == [list(ids)]
  tokens = jnp.asarray([ids])
  prompt = Prompt(tokens, jnp.full_like(tokens, NO_AUDIO), jnp.ones_like(tokens))
  wanted, _ = read(ours, prompt, jnp.zeros((1, 0, 24)), jnp.zeros((1, 0), bool))
  np.testing.assert_allclose(logits.numpy(), wanted, atol=1e-4)
  plain = model.language_model.generate(**inputs, max_new_tokens=5, do_sample=False)
  assert model.generate(**inputs, max_new_tokens=5).tolist() == plain.tolist()


@pytest.mark.parametrize('beams', [1, 2])
def test_several_answers_to_each_prompt(letters, beams):
  model, processor = letters.load()
  torch.manual_seed(0)
  how = dict(num_return_sequences=2, num_beams=beams, do_sample=True, top_k=9)
  answers = model.generate(
    **prepare(processor), max_new_tokens=4, return_dict_in_generate=True, **how
  ).sequences
  prompts = prepare(processor)['input_ids'].repeat_interleave(2, 0)
  assert answers[:, : prompts.shape[1]].tolist() == prompts.tolist()
  assert len(answers) == 4


def test_an_answer_comes_as_a_stream(letters):
  model, processor = letters.load()
  inputs = prepare(processor, CONVERSATIONS[:1], SOUNDS[:2])
  how = dict(max_new_tokens=9, eos_token_id=None)
  whole = model.generate(**inputs, **how)[0, inputs['input_ids'].shape[1] :]
  streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
  arguments = {**inputs, **how, 'streamer': streamer}
  thread = threading.Thread(target=model.generate, kwargs=arguments)
  thread.start()
  pieces = list(streamer)
  thread.join()
  assert ''.join(pieces) == processor.decode(whole)


def test_what_is_saved_again_says_the_same(world, tmp_path):
  model, processor = world.load()
  inputs = prepare(processor)
  model.save_pretrained(tmp_path / 'saved_again')
  processor.save_pretrained(tmp_path / 'saved_again')
  again, processor = world._replace(folder=tmp_path / 'saved_again').load()
  same = prepare(processor)
  assert same.keys() == inputs.keys()
  np.testing.assert_array_equal(same['input_ids'], inputs['input_ids'])
  np.testing.assert_allclose(again(**same).logits, model(**inputs).logits, atol=1e-6)


def test_a_pipeline_answers(letters):
  model, processor = letters.load()
  pipe = pipeline(model=str(letters.folder), trust_remote_code=True)
  said = pipe({'audio': SOUNDS[0], 'sampling_rate': 16_000}, max_new_tokens=5)
  inputs = prepare(processor, [(Turn('user', (Audio(0),)),)], SOUNDS[:1])
  answer = model.generate(**inputs, max_new_tokens=5)[0, inputs['input_ids'].shape[1] :]
  assert said == processor.decode(answer, skip_special_tokens=True).strip()


def test_the_ears_stay_in_float32(letters):
  half, processor = letters.load(torch_dtype=torch.bfloat16)
  assert half.language_model.lm_head.weight.dtype == torch.bfloat16
  assert {p.dtype for p in half.audio_tower.parameters()} == {torch.float32}
  assert {p.dtype for p in half.multi_modal_projector.parameters()} == {torch.float32}
  assert half(**prepare(processor)).logits.isfinite().all()


def test_names_and_shapes_are_those_of_ultravox(tiny_world, tmp_path):
  world = make(tiny_world, tmp_path, 'swiglu')
  model, _ = world.load()
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
  for name in (
    'audio_tower.conv1.weight',
    'audio_tower.layers.0.self_attn.k_proj.weight',
  ):
    assert name in shapes
  config = model.config
  assert (config.stack_factor, config.hidden_size) == (stack, hidden)
  assert (config.projector_act, config.projector_ln_mid) == ('swiglu', True)
  assert config.num_projector_layers == 0 and config.text_model_id is None


def test_an_llm_elsewhere_is_fetched_if_it_is_the_same(tiny_world, tmp_path):
  world = make(tiny_world, tmp_path, 'linear', llm='reference')
  model, processor = world.load()
  assert not any('language_model' in name for name in stored(world.folder))
  (tmp_path / 'whole').mkdir()
  whole, _ = make(tiny_world, tmp_path / 'whole', 'linear').load()
  inputs = prepare(processor)
  np.testing.assert_allclose(model(**inputs).logits, whole(**inputs).logits, atol=1e-6)
  model.save_pretrained(tmp_path / 'again')
  assert not any('language_model' in name for name in stored(tmp_path / 'again'))
  config = world.folder / 'config.json'
  spoilt = config.read_text().replace(
    '"model.safetensors": "', '"model.safetensors": "0'
  )
  config.write_text(spoilt)
  with pytest.raises(ValueError, match='was trained with an LLM of 0'):
    world.load()


def stored(folder):
  from safetensors import safe_open

  with safe_open(folder / 'model.safetensors', 'np') as file:
    return list(file.keys())


def test_it_loads_as_a_causal_language_model(letters):
  model = AutoModelForCausalLM.from_pretrained(letters.folder, trust_remote_code=True)
  assert type(model).__name__ == 'AudioChatLlamaModel'


def test_places_and_audio_that_disagree_are_refused(letters):
  model, processor = letters.load()
  inputs = prepare(processor)
  inputs['audio_lens'][1] -= 100
  with pytest.raises(ValueError, match='places for audio'):
    model(**inputs)


def test_the_version_is_one_that_we_name():
  major, minor = map(int, transformers.__version__.split('.')[:2])
  assert (major, minor) == (4, 57) or major == 5
  assert jax.default_backend() == 'cpu'
