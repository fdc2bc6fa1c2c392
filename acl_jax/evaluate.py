# SPDX-License-Identifier: Apache-2.0
"""Program: evaluate how well speech replaces its transcript; writes two reports.

  python -m acl_jax.evaluate --config=configs/smol.py --manifest=M --output=DIR

The reports are DIR/report.json and DIR/report.html. --checkpoint is a workdir of
`train` or an adapter file; the default is the adapter shipped for the config. An
interrupted run resumes from DIR/cache.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from flax import nnx
from ml_collections import config_flags

from acl_jax import assets, build
from acl_jax.assistant import Assistant, load
from acl_jax.config.experiment import TrainConfig, parse_train
from acl_jax.evaluation import encoding, examples, report
from acl_jax.evaluation.babble import describe_noise, with_babble
from acl_jax.evaluation.cascade import BEAM_SIZE, Recogniser
from acl_jax.evaluation.examples import Example
from acl_jax.evaluation.preparation import add_reference_responses, prepare_examples
from acl_jax.evaluation.prompt_batches import PromptCase
from acl_jax.evaluation.responses import generate_responses
from acl_jax.evaluation.scores import Score, score_cases
from acl_jax.evaluation.summary import format_table, summarise
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.runtime import compilation_cache, program
from acl_jax.runtime.files import sha256, write_atomically
from acl_jax.runtime.progress import progress
from acl_jax.text.frontend import TextFrontend
from acl_jax.weights import fingerprint
from data_pipeline.corpora.utterance import BadUtterance

SAMPLED_EXAMPLES = 12
NO_CASCADE = 'none'


def evaluate(
  config: TrainConfig,
  manifest: str | Path,
  output: str | Path,
  *,
  checkpoint: str | None = None,
  limit: int | None = None,
  cascade: str = 'asset:whisper-base',
  babble_snr: float | None = None,
) -> dict[str, Any]:
  """Evaluate a manifest; writes both reports and returns the content of report.json.

  checkpoint: None for the shipped adapter. limit: lines of the manifest to read.
  cascade: a CTranslate2 folder of Whisper, or 'none' for no cascade.
  babble_snr: dB above a babble of other utterances; None for the audio as it is.

  ValueError if no utterance can be used.
  """
  output = Path(output)
  # Check optional dependencies first, so that a missing one fails fast.
  has_cascade = cascade != NO_CASCADE
  recogniser = Recogniser(assets.resolve(cascade)) if has_cascade else None
  utterances, bad = examples.read_manifest(manifest, limit)
  _check_not_empty(utterances, bad, manifest)
  if babble_snr is not None:
    utterances = with_babble(utterances, babble_snr)
  parts = build.find_checkpoint(checkpoint, config.shipped_adapter)
  assistant = load(config, checkpoint)
  text, model = assistant.text, assistant.model
  description = describe(config, model, parts)
  if recogniser is not None:
    description['cascade'] = {
      'path': cascade,
      'sha256': recogniser.sha256,
      'beam_size': BEAM_SIZE,
    }
  cache, max_new_tokens = output / 'cache', config.targets.max_new_tokens
  decode, hearing = assistant.decode_transcript, assistant.hearing
  prepared, unusable = prepare_examples(
    model, text, decode, utterances, recogniser, cache, max_new_tokens, hearing
  )
  bad = [*bad, *unusable]
  _check_not_empty(prepared, bad, manifest)
  response_cache = cache / f'responses-{description["llm"]["sha256"][:16]}.jsonl'
  prepared = add_reference_responses(
    model, text, prepared, max_new_tokens, response_cache
  )
  scores = score_all(model, text, prepared)
  skipped = [{'id': item.id, 'reason': item.reason} for item in bad]
  summary = summarise(prepared, scores, description, skipped)
  summary['noise'] = describe_noise(babble_snr)
  _write(output / 'report.json', json.dumps(summary, indent=2, allow_nan=False) + '\n')
  sampled = sample_examples(assistant, prepared, scores, max_new_tokens)
  metrics = Path(checkpoint or '') / 'metrics.jsonl'
  curves = report.read_curves(metrics) if checkpoint and metrics.is_file() else {}
  title = f'Speech in, answers out: {Path(manifest).absolute().parent.name}'
  _write(output / 'report.html', report.render(summary, sampled, curves, title))
  return summary


def describe(
  config: TrainConfig, model: SpeechLLM, checkpoint: build.Checkpoint
) -> dict[str, Any]:
  """Return `model` of the report: the parts, their sizes and their files."""
  return {
    'encoder': {
      **json.loads(json.dumps(dataclasses.asdict(config.encoder))),
      'parameters': _num_parameters(model.encoder),
    },
    'adapter': {
      'kind': model.adapter.kind,
      'parameters': _num_parameters(model.adapter),
      'file': str(checkpoint.adapter),
      'sha256': sha256(checkpoint.adapter),
    },
    'llm': {'path': config.llama.path, **fingerprint.describe(model.llama)},
    'template': config.template,
    'max_new_tokens': config.targets.max_new_tokens,
    'cascade': None,
  }


def score_all(
  model: SpeechLLM, text: TextFrontend, prepared: Sequence[Example]
) -> dict[str, list[Score]]:
  """Score the responses under every condition; returns the scores by condition."""
  cases = examples.make_prompt_cases(text, prepared)
  with progress('score', sum(map(len, cases.values()))) as advance:
    return {name: score_cases(model, group, advance) for name, group in cases.items()}


def sample_examples(
  assistant: Assistant,
  prepared: Sequence[Example],
  scores: Mapping[str, Sequence[Score]],
  max_new_tokens: int,
) -> list[report.ReportExample]:
  """Return a random sample of the examples, with the responses to their audio."""
  model, text = assistant.model, assistant.text
  rng = np.random.default_rng(0)
  count = min(SAMPLED_EXAMPLES, len(prepared))
  indices = sorted(rng.choice(len(prepared), count, replace=False).tolist())
  cases = [PromptCase(text.audio_prompt(), [prepared[index].clip]) for index in indices]
  stop_ids = text.tokenizer.stop_ids
  responses = dict(
    generate_responses(model, cases, max_new_tokens=max_new_tokens, stop_ids=stop_ids)
  )
  sampled = []
  for case, index in enumerate(indices):
    example = prepared[index]
    waveform = encoding.read_audio(model, example.utterance, assistant.hearing)
    sampled.append(
      report.ReportExample(
        id=example.utterance.id,
        waveform=waveform,
        log_mel=encoding.compute_log_mel(model, waveform),
        text=example.utterance.text,
        cascade_transcript=example.cascade_transcript,
        ctc_transcript=example.ctc_transcript,
        reference_response=text.tokenizer.decode(example.response).strip(),
        audio_response=text.tokenizer.decode(responses[case]).strip(),
        nll={name: float(group[index].nll.mean()) for name, group in scores.items()},
      )
    )
  return sampled


def check_skipped(summary: Mapping[str, Any], share: float, manifest: str) -> None:
  """Raise ValueError if more than `share` of the manifest was skipped."""
  skipped = summary['skipped']
  total = summary['examples'] + len(skipped)
  if len(skipped) > share * total:
    raise ValueError(
      f'{manifest}: {len(skipped)} of {total} examples were skipped; the limit is'
      f' --max_skipped={share:g}. The report is on the others. The first reason:'
      f' {skipped[0]["reason"]}'
    )


def _check_not_empty(usable: Sequence, bad: Sequence[BadUtterance], manifest) -> None:
  if not usable:
    first = f'. The first reason: {bad[0].reason}' if bad else ''
    raise ValueError(f'{manifest}: none of {len(bad)} examples can be used{first}')


def _num_parameters(module: Any) -> int:
  leaves = jax.tree.leaves(nnx.state(module, nnx.Param))
  return sum(leaf.size for leaf in leaves)


def _write(path: Path, content: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(path, content)


def main(argv: Sequence[str]) -> None:
  """Parse the config and evaluate."""
  del argv
  compilation_cache.enable(assets.cache_folder() / 'compiled')
  args = flags.FLAGS
  summary = evaluate(
    parse_train(args.config),
    args.manifest,
    args.output,
    checkpoint=args.checkpoint,
    limit=args.limit,
    cascade=args.cascade,
    babble_snr=args.babble_snr,
  )
  print(format_table(summary))
  print(f'evaluate: {summary["examples"]} examples, see {args.output}/report.html')
  check_skipped(summary, args.max_skipped, args.manifest)


if __name__ == '__main__':
  # Here and not at import, because other programs have flags with the same names.
  config_flags.DEFINE_config_file('config')
  flags.DEFINE_string('manifest', None, 'JSON lines of audio files and transcripts')
  flags.DEFINE_string('output', None, 'folder for the reports')
  flags.DEFINE_string('checkpoint', None, 'a workdir of train or an adapter file')
  flags.DEFINE_integer('limit', None, 'read only this many lines', lower_bound=1)
  flags.DEFINE_string(
    'cascade',
    'asset:whisper-base',
    f'a CTranslate2 folder of Whisper, or {NO_CASCADE!r}',
  )
  flags.DEFINE_float(
    'babble_snr', None, 'dB above a babble of other utterances', -20, 60
  )
  flags.DEFINE_float(
    'max_skipped', 0.05, 'share of the examples that may be skipped', 0, 1
  )
  flags.mark_flags_as_required(['config', 'manifest', 'output'])
  program.run(main)
