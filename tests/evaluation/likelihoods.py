# SPDX-License-Identifier: Apache-2.0
"""A report.json of likelihoods, in which all text from outside is one text."""

BENIGN = 'word'
NLL = {
  'text': 0.5,
  'audio': 1.0,
  'cascade': 0.75,
  'cascade_ctc': 1.25,
  'shuffled_audio': 2.5,
  'no_prompt': 3.5,
}


def make_report(text=BENIGN):
  return {
    'examples': 20,
    'response_nll': NLL,
    'response_perplexity': {name: 10 * value for name, value in NLL.items()},
    'greedy_agreement': {'audio': 0.625, 'cascade': 0.875},
    'wer': {'cascade': 0.0625, 'ctc': 0.1875},
    'gap_closed': {
      'audio': {'value': 0.75, 'low': 0.625, 'high': 0.8125},
      'cascade': {'value': 0.875, 'low': 0.75, 'high': None},
      'cascade_ctc': None,
    },
    'differences': {
      'audio - cascade_ctc': {'nats': -0.25, 'low': -0.5, 'high': -0.125},
      'audio - cascade': {'nats': 0.25, 'low': -0.125, 'high': 0.5},
    },
    'wer_interval': {
      'cascade': {'value': 0.0625, 'low': 0.03125, 'high': 0.125},
      'ctc': None,
    },
    'model': {'llm': {'path': text}, 'adapter': {'file': text}, text: text},
    'skipped': [{'id': text, 'reason': text}],
  }
