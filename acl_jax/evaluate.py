# SPDX-License-Identifier: Apache-2.0
"""How well speech stands in for its transcript: a manifest -> report.json, report.html.

  python -m acl_jax.evaluate --config=configs/smol.py --manifest=M --output=DIR

--checkpoint names a workdir of `train` or an adapter file; without it, the adapter that
is shipped for the config. An interrupted run goes on from DIR/cache.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import flags
from flax import nnx
from ml_collections import config_flags

from acl_jax import assets, build
from acl_jax.evaluation import examples, hearing, report
from acl_jax.evaluation.answers import generate_responses
from acl_jax.evaluation.cascade import BEAM_SIZE, Recogniser
from acl_jax.evaluation.collect import answer_transcripts, collect_examples
from acl_jax.evaluation.examples import Example
from acl_jax.evaluation.rows import Case
from acl_jax.evaluation.scores import Score, score
from acl_jax.evaluation.summary import gap_closed, summarise
from acl_jax.models.ctc import CTCAdapter
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.runtime import compilation_cache, program
from acl_jax.runtime.files import sha256, write_atomically
from acl_jax.runtime.progress import progress
from acl_jax.text.frontend import TextFrontend
from acl_jax.weights import fingerprint
from data_pipeline.corpora.utterance import BadUtterance

EXAMPLES_SHOWN = 12
NO_CASCADE = 'none'


def evaluate(
  config: ml_collections.ConfigDict,
  manifest: str | Path,
  output: str | Path,
  *,
  checkpoint: str | None = None,
  limit: int | None = None,
  cascade: str = 'asset:whisper-base',
) -> dict[str, Any]:
  """Writes both reports into `output` and returns what report.json says.

  cascade: a CTranslate2 folder of Whisper, or 'none' to leave the cascade out.
  """
  output = Path(output)
  # What may be missing is asked for first, before anything that takes long.
  wanted = cascade != NO_CASCADE
  recogniser = Recogniser(assets.resolve(cascade)) if wanted else None
  utterances, bad = examples.read_manifest(manifest, limit)
  _check_some_are_left(utterances, bad, manifest)
  text, model = build.load_text_frontend(config), build.load_model(config, checkpoint)
  decode = build.load_decoder(config, model, text, checkpoint)
  described = describe(config, model, checkpoint)
  if recogniser is not None:
    how = {'path': cascade, 'sha256': recogniser.sha256, 'beam_size': BEAM_SIZE}
    described['cascade'] = how
  cache, max_new_tokens = output / 'cache', config.targets.max_new_tokens
  found, worse = collect_examples(
    model, text, decode, utterances, recogniser, cache, max_new_tokens
  )
  bad = [*bad, *worse]
  _check_some_are_left(found, bad, manifest)
  known = cache / f'responses-{described["llm"]["sha256"][:16]}.jsonl'
  found = answer_transcripts(model, text, found, max_new_tokens, known)
  scores = score_all(model, text, found)
  skipped = [{'id': item.id, 'reason': item.reason} for item in bad]
  summary = summarise(found, scores, described, skipped)
  _write(output / 'report.json', json.dumps(summary, indent=2, allow_nan=False) + '\n')
  shown = sample_examples(model, text, found, scores, max_new_tokens)
  metrics = Path(checkpoint or '') / 'metrics.jsonl'
  curves = report.read_curves(metrics) if checkpoint and metrics.is_file() else {}
  title = f'Speech in, answers out: {Path(manifest).absolute().parent.name}'
  _write(output / 'report.html', report.render(summary, shown, curves, title))
  return summary


def describe(
  config: ml_collections.ConfigDict, model: SpeechLLM, checkpoint: str | None
) -> dict[str, Any]:
  """The `model` of the report: which parts, how large, from which files."""
  adapter = build.find_adapter(config, checkpoint)
  return {
    'encoder': {**config.encoder.to_dict(), 'parameters': _size(model.encoder)},
    'adapter': {
      'kind': 'ctc' if isinstance(model.adapter, CTCAdapter) else 'stride',
      'parameters': _size(model.adapter),
      'file': str(adapter),
      'sha256': sha256(adapter),
    },
    'llm': {'path': config.llama.path, **fingerprint.describe(model.llama)},
    'template': config.template,
    'max_new_tokens': config.targets.max_new_tokens,
    'cascade': None,
  }


def score_all(
  model: SpeechLLM, text: TextFrontend, found: Sequence[Example]
) -> dict[str, list[Score]]:
  """The scores of the responses under every condition that there is."""
  cases = examples.make_cases(text, found)
  with progress('score', sum(map(len, cases.values()))) as advance:
    return {name: score(model, group, advance) for name, group in cases.items()}


def sample_examples(
  model: SpeechLLM,
  text: TextFrontend,
  found: Sequence[Example],
  scores: Mapping[str, Sequence[Score]],
  max_new_tokens: int,
) -> list[report.Shown]:
  """Some examples, drawn at random, with the answers to their recordings."""
  rng = np.random.default_rng(0)
  count = min(EXAMPLES_SHOWN, len(found))
  chosen = sorted(rng.choice(len(found), count, replace=False).tolist())
  cases = [Case(text.spoken(), found[number].clip) for number in chosen]
  stop_ids = text.tokenizer.stop_ids
  made = generate_responses(
    model, cases, max_new_tokens=max_new_tokens, stop_ids=stop_ids
  )
  answers = dict(made)
  shown = []
  for place, number in enumerate(chosen):
    example = found[number]
    sound = hearing.read_audio(model, example.utterance)
    shown.append(
      report.Shown(
        id=example.utterance.id,
        sound=sound,
        log_mel=hearing.log_mel(model, sound),
        text=example.utterance.text,
        cascade=example.cascade,
        heard=example.heard,
        response=text.tokenizer.decode(example.response).strip(),
        answer=text.tokenizer.decode(answers[place]).strip(),
        nll={name: float(of[number].nll.mean()) for name, of in scores.items()},
      )
    )
  return shown


def format_table(summary: Mapping[str, Any]) -> str:
  """The numbers of a report, as a terminal shows them."""
  nll = summary['response_nll']
  lines = [f'{"":16}{"nats/token":>12}{"perplexity":>12}{"gap closed":>12}']
  for name in nll:
    perplexity, closed = summary['response_perplexity'][name], gap_closed(nll, name)
    cells = [(nll[name], '.3f'), (perplexity, '.3f'), (closed, '.1%')]
    shown = ('-' if x is None else format(x, how) for x, how in cells)
    lines.append(f'{name:16}' + ''.join(f'{cell:>12}' for cell in shown))
  return '\n'.join(lines)


def check_skipped(summary: Mapping[str, Any], share: float, manifest: str) -> None:
  """ValueError if more than `share` of the manifest was skipped."""
  skipped = summary['skipped']
  total = summary['examples'] + len(skipped)
  if len(skipped) > share * total:
    raise ValueError(
      f'{manifest}: {len(skipped)} of {total} examples were skipped, --max_skipped '
      f'allows a share of {share:g}; the report is about the others; the first: '
      f'{skipped[0]["reason"]}'
    )


def _check_some_are_left(left: Sequence, bad: Sequence[BadUtterance], manifest) -> None:
  if not left:
    first = f'; the first: {bad[0].reason}' if bad else ''
    raise ValueError(f'{manifest}: none of {len(bad)} examples can be used{first}')


def _size(module: nnx.Module) -> int:
  leaves = jax.tree.leaves(nnx.state(module, nnx.Param))
  return sum(leaf.size for leaf in leaves)


def _write(path: Path, content: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(path, content)


def main(_):
  """Runs `evaluate` with the flags."""
  compilation_cache.enable(assets.cache_folder() / 'compiled')
  given = flags.FLAGS
  summary = evaluate(
    given.config,
    given.manifest,
    given.output,
    checkpoint=given.checkpoint,
    limit=given.limit,
    cascade=given.cascade,
  )
  print(format_table(summary))
  print(f'evaluate: {summary["examples"]} examples, see {given.output}/report.html')
  check_skipped(summary, given.max_skipped, given.manifest)


if __name__ == '__main__':
  # Defined here: other programs have flags of the same names.
  config_flags.DEFINE_config_file('config')
  flags.DEFINE_string('manifest', None, 'the recordings and their transcripts')
  flags.DEFINE_string('output', None, 'folder of the reports')
  flags.DEFINE_string('checkpoint', None, 'a workdir of train, or an adapter file')
  flags.DEFINE_integer('limit', None, 'read that many lines of it only', lower_bound=1)
  flags.DEFINE_string(
    'cascade', 'asset:whisper-base', f'a CTranslate2 Whisper, or {NO_CASCADE!r}'
  )
  flags.DEFINE_float('max_skipped', 0.05, 'share that may be unusable', 0, 1)
  flags.mark_flags_as_required(['config', 'manifest', 'output'])
  program.run(main)
