# SPDX-License-Identifier: Apache-2.0
"""A report of six tasks with its cases and audio, as `evaluate` leaves it."""

import json
import math
from pathlib import Path

import numpy as np
import soundfile

from tests.evaluation.likelihoods import make_report

ARMS = ('text', 'audio', 'cascade', 'cascade_ctc', 'shuffled_audio', 'no_audio')
SKILL = dict(zip(ARMS, (0.82, 0.71, 0.74, 0.62, 0.12, 0.06), strict=True))
QUESTIONS = (
  ('What is the capital of France?', 'Paris', 'What is the capitol of France?'),
  ('Which animal says moo?', 'cow', 'Which animal says moo?'),
  ('How many legs does a spider have?', 'eight', 'How many legs does a spider halve?'),
  ('Who painted the Mona Lisa?', 'Leonardo', 'Who painted the moaner Lisa?'),
  ('What colour is a ripe banana?', 'yellow', 'What color is a ripe banana?'),
  (
    'Which planet is closest to the sun?',
    'Mercury',
    'Which plant is closest to the son?',
  ),
  ('What do bees make?', 'honey', 'What do bees make?'),
)
UNSURE = {
  'capitol': (('capital', 0.41), ('Capitol', 0.03)),
  'halve': (('have', 0.38),),
  'moaner': (('Mona', 0.44), ('moan a', 0.02)),
  'plant': (('planet', 0.49),),
  'son': (('sun', 0.46), ('', 0.01)),
}


def interval(value, width=0.08, largest=1.0):
  low, high = max(0.0, value - width), min(largest, value + width)
  return {'value': value, 'low': low, 'high': high}


def arms(metrics, factor=1.0, largest=1.0):
  return {
    arm: {
      metric: interval(SKILL[arm] * factor * largest, 0.08 * largest, largest)
      for metric in metrics
    }
    for arm in ARMS
  }


def comparison(metric, value, told, p=None, kappa=None, width=0.05):
  verdict = 'can be told from chance' if told else 'cannot be told from chance'
  return {
    'metric': metric,
    'difference': {'value': value, 'low': value - width, 'high': value + width},
    'mcnemar_p': p,
    'kappa': kappa,
    'verdict': verdict,
  }


def groups(names, metrics, cases=20):
  return {
    name: {'cases': cases, 'arms': arms(metrics, factor)}
    for name, factor in names.items()
  }


def make_tasks():
  noise = {'clean': 1.0, 'reverb': 0.9, 'telephone': 0.86, 'mp3_16k': 0.95}
  for kind, loss in (('babble', 0.3), ('pink', 0.2), ('music', 0.14)):
    for step, level in enumerate((20, 10, 5, 0)):
      noise[f'{kind}_{level}db'] = 0.97 - loss * step**1.3 / 2
  patterns = {'tt': 1.1, 'ta': 0.98, 'at': 0.93, 'aa': 0.8, 'ata': 0.75}
  context = {
    f'{name}/{noise}': factor - loss
    for name, factor in (('none', 0.6), ('coarse', 0.85), ('exact', 1.1))
    for noise, loss in (
      ('clean', 0.0),
      ('babble_10db', 0.1),
      ('babble_5db', 0.25),
      ('babble_0db', 0.45),
    )
  }
  matched = ['exact_match', 'contains']
  return {
    'spoken_qa': {
      'cases': 300,
      'binary': True,
      'metrics': matched,
      'arms': arms(matched),
      'groups': groups({'one fact': 1.1, 'two facts': 0.7, 'options': 1.0}, matched),
      'comparisons': {
        'audio - cascade': comparison('exact_match', -0.031, False, 0.21, 0.71),
        'audio - cascade_ctc': comparison('exact_match', 0.09, True, 0.0004, 0.64),
      },
    },
    'translation': {
      'cases': 400,
      'binary': False,
      'metrics': ['bleu', 'chrf'],
      'arms': arms(['bleu', 'chrf'], 0.4, 100.0),
      'groups': {
        language: {'cases': 100, 'arms': arms(['bleu', 'chrf'], factor, 100.0)}
        for language, factor in {'en-fr': 0.5, 'en-de': 0.3, 'en-it': 0.4}.items()
      },
      'comparisons': {
        'audio - cascade': comparison('bleu', -4.2, True, width=2.0),
        'audio - cascade_ctc': comparison('bleu', 1.1, False, width=2.3),
      },
      'signature': 'nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0',
    },
    'instructions': {
      'cases': 60,
      'binary': True,
      'metrics': ['strict', 'loose'],
      'arms': arms(['strict', 'loose'], 0.6),
      'groups': groups({'num_words': 0.5, 'letter_case': 0.8, 'json': 0.3}, ['strict']),
      'comparisons': {
        'audio - cascade': comparison('strict', 0.0, False, 1.0, 0.93),
      },
    },
    'conversation': {
      'cases': 60,
      'binary': True,
      'metrics': ['contains'],
      'arms': arms(['contains']),
      'groups': groups(patterns, ['contains'], 12),
      'comparisons': {
        'audio - cascade': comparison('contains', 0.07, True, 0.031, 0.58),
      },
    },
    'context': {
      'cases': 240,
      'binary': True,
      'metrics': ['contains', 'nll', 'entity_error_rate'],
      'arms': arms(['contains'])
      | {
        arm: {
          'contains': interval(SKILL[arm]),
          'nll': interval(2.5 - SKILL[arm], 0.2, 9),
        }
        for arm in ARMS[:4]
      },
      'groups': groups(context, ['contains'], 40),
      'comparisons': {},
    },
    'robustness': {
      'cases': 20 * len(noise),
      'binary': True,
      'metrics': matched,
      'arms': arms(matched, 0.7),
      'groups': groups(noise, matched),
      'comparisons': {
        'audio - cascade': comparison('exact_match', -0.08, True, 0.002, 0.66),
        'audio - cascade_ctc': comparison('exact_match', 0.004, False, 0.84, 0.7),
      },
    },
  }


def make_tokens(heard):
  """Tokens of the words, with a space before each, as sentencepiece writes them."""
  tokens = []
  for word in heard.split():
    others = UNSURE.get(word.strip('?'), ())
    probability = 0.5 if others else 0.97
    pieces = [[f' {other}', math.log(share)] for other, share in others]
    tokens.append(
      {
        'text': f' {word.strip("?")}',
        'log_prob': math.log(probability),
        'alternatives': [[f' {word.strip("?")}', math.log(probability)], *pieces],
      }
    )
  return tokens


def make_case(task, index, right, group='', degradation=''):
  """A case about a question; `right` are the arms whose answer is right."""
  question, answer, misheard = QUESTIONS[index % len(QUESTIONS)]
  metric = make_tasks()[task]['metrics'][0]
  part = {
    'text': question,
    'audio': f'audio/{index % len(QUESTIONS)}.wav',
    'degradation': degradation,
    'heard': {'audio': misheard, 'cascade': question},
    'tokens': make_tokens(misheard),
  }
  turns = [{'role': 'user', 'content': ['Answer in one word.', part]}]
  if task in ('conversation', 'context'):
    turns = [
      {'role': 'user', 'content': ['Let us do a quiz about the world.']},
      {'role': 'assistant', 'content': ['Gladly! What is your first question?']},
      *turns,
    ]
  return {
    'task': task,
    'id': f'{task}-{index:03}',
    'group': group,
    'turns': turns,
    'expected': [answer, f'the {answer}'],
    'answers': {
      arm: {
        'text': f'{answer}.' if arm in right else "I'm not sure what you mean.",
        'scores': {metric: float(arm in right)} if task != 'translation' else {},
      }
      for arm in ARMS
    },
  }


def make_cases(count=42, seed=0):
  rng = np.random.default_rng(seed)
  tasks = make_tasks()
  cases = []
  for index in range(count):
    task = list(tasks)[index % len(tasks)]
    names = list(tasks[task]['groups'])
    group = names[int(rng.integers(len(names)))]
    right = {arm for arm in ARMS if rng.random() < SKILL[arm]}
    degradation = group if task == 'robustness' and group != 'clean' else ''
    cases.append(make_case(task, index, right, group, degradation))
  return cases


def write_folder(folder: Path, cases=None, likelihoods=True, seed=0) -> Path:
  """Write report.json, cases.jsonl and tones; returns the folder."""
  (folder / 'audio').mkdir(parents=True, exist_ok=True)
  for index in range(len(QUESTIONS)):
    t = np.arange(4_000 + 500 * index) / 16_000
    tone = 0.2 * np.sin(2 * np.pi * (220 + 55 * index) * t)
    soundfile.write(folder / f'audio/{index}.wav', tone, 16_000)
  report = make_report() if likelihoods else {'model': {}, 'skipped': []}
  (folder / 'report.json').write_text(json.dumps(report | {'tasks': make_tasks()}))
  lines = make_cases(seed=seed) if cases is None else cases
  text = ''.join(json.dumps(case) + '\n' for case in lines)
  (folder / 'cases.jsonl').write_text(text)
  return folder
