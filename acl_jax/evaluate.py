# SPDX-License-Identifier: Apache-2.0
"""Program: evaluate how well speech replaces its transcript; writes reports.

  python -m acl_jax.evaluate --config=configs/smol.py --manifest=M --output=DIR \
      [--suite=spoken_qa,conversation]

M is a manifest or a folder of them; the fields of its lines decide what is evaluated,
or --suite does. The reports are DIR/report.json, report.html, report.md and, for tasks,
cases.jsonl. --checkpoint is a workdir of `train` or an adapter file; the default is
the adapter shipped for the config. An interrupted run resumes from DIR/cache.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from acl_jax import assets, build
from acl_jax.assistant import load
from acl_jax.config.experiment import TrainConfig, parse_train
from acl_jax.evaluation import manifest_cases, report
from acl_jax.evaluation.cache import ResultCache
from acl_jax.evaluation.cascade import Recogniser
from acl_jax.evaluation.description import describe, describe_cascade
from acl_jax.evaluation.judge import Judge
from acl_jax.evaluation.manifest_cases import MODALITY
from acl_jax.evaluation.modality import Modality, check_lines
from acl_jax.evaluation.runner import Runner
from acl_jax.evaluation.summary import format_table
from acl_jax.evaluation.task_report import summarise_tasks
from acl_jax.evaluation.task_summary import format_tasks
from acl_jax.evaluation.tasks.table import make_tasks
from acl_jax.evaluation.tasks.task import Task
from acl_jax.evaluation.voicebench import summary as voicebench
from acl_jax.runtime import compilation_cache, config_flag, locks, program
from acl_jax.runtime.files import write_atomically

NO_CASCADE = 'none'


@dataclasses.dataclass(frozen=True)
class Options:
  """What of a manifest is evaluated, and against what.

  checkpoint: None for the shipped adapter. suite: names of tasks; None for those whose
  fields the lines have. limit: lines to read of each task in each manifest. cascade: a
  CTranslate2 folder of Whisper, or 'none' for no cascade. babble_snr: dB above a babble
  of other utterances, for the task `modality` alone; None for the audio as it is.
  judge_url, judge_model: a model that scores answers. contained: refuse audio outside
  the manifest's folder.
  """

  checkpoint: str | None = None
  suite: Sequence[str] | None = None
  limit: int | None = None
  cascade: str = 'asset:whisper-base'
  babble_snr: float | None = None
  judge_url: str | None = None
  judge_model: str | None = None
  contained: bool = False

  def __post_init__(self):
    if (self.judge_url is None) != (self.judge_model is None):
      raise ValueError('--judge_url and --judge_model go together; one is missing')

  def judge(self, cache: Path) -> Judge | None:
    """Return the judge, if there is one; its votes are kept in a folder."""
    if self.judge_url is None or self.judge_model is None:
      return None
    return Judge(self.judge_url, self.judge_model, ResultCache(cache / 'judge.jsonl'))


def evaluate(
  config: TrainConfig,
  manifest: str | Path,
  output: str | Path,
  options: Options = Options(),  # noqa: B008
) -> dict[str, Any]:
  """Evaluate a manifest; writes the reports and returns the content of report.json.

  manifest: or a folder of manifests. ValueError if no utterance can be used, or if
  another program writes to `output`.
  """
  with locks.own_folder(Path(output)):
    return _evaluate(config, manifest, Path(output), options)


def _evaluate(
  config: TrainConfig, manifest: str | Path, output: Path, options: Options
) -> dict[str, Any]:
  tasks = make_tasks(judge := options.judge(output / 'cache'))
  suite = _choose_suite(options.suite, options.babble_snr, tasks)
  # What needs no model fails before one is loaded: the manifest, then dependencies.
  limit, contained = options.limit, options.contained
  selected = manifest_cases.select(manifest, suite, limit, tasks, contained)
  lines, curves = None, _read_curves(options.checkpoint)
  if selected.utterances is not None:
    lines = check_lines(selected.utterances, manifest, options.babble_snr)
  recogniser = None
  if options.cascade != NO_CASCADE:
    recogniser = Recogniser(assets.resolve(options.cascade))
  found = build.find_checkpoint(options.checkpoint, config.shipped_adapter)
  assistant = load(config, options.checkpoint)
  description = describe(config, assistant.model, found)
  description['cascade'] = describe_cascade(options.cascade, recogniser)
  cache = output / 'cache'
  summary: dict[str, Any] = {'model': description, 'skipped': []}
  sampled: list[report.ReportExample] = []
  parts = assistant.model, assistant.text, assistant.hearing, recogniser, cache
  if lines is not None:
    limits = config.targets.max_new_tokens, options.babble_snr
    modality = Modality(*parts, *limits, description)
    summary, sampled = modality.evaluate(lines, manifest)
  unused = selected.bad
  if selected.cases:
    results = Runner(*parts, description['llm']['sha256']).run(selected.cases)
    summary['tasks'] = summarise_tasks(tasks, results, output / 'cases.jsonl')
    if benchmark := voicebench.summarise(summary['tasks'], judge is not None):
      summary['voicebench'] = benchmark
    unused = [*unused, *results.skipped]
    summary['without_speech'] = summary.get('without_speech', []) + [
      each.utterance.id for each, heard in results.heard.items() if not heard.has_speech
    ]
  silent = [*dict.fromkeys(summary.get('without_speech', []))]
  summary['without_speech'] = {'count': len(silent), 'ids': silent}
  summary['skipped'] += [{'id': each.id, 'reason': each.reason} for each in unused]
  _write(output / 'report.json', json.dumps(summary, indent=2, allow_nan=False) + '\n')
  title = f'Speech in, answers out: {Path(manifest).absolute().parent.name}'
  report.write_pages(output, title, sampled, curves)
  return summary


def _choose_suite(
  suite: Sequence[str] | None, babble_snr: float | None, tasks: Mapping[str, Task]
) -> list[str] | None:
  """Return the names of the tasks; None for those whose fields the lines have."""
  names = manifest_cases.parse_suite(suite, tasks)
  if babble_snr is None:
    return names
  if names not in (None, [MODALITY]):
    raise ValueError(
      f'--babble_snr={babble_snr:g} is for --suite={MODALITY} alone; the suite is'
      f' {",".join(names)}. Tasks named robustness_* have babble'
    )
  return [MODALITY]


def count_examples(summary: Mapping[str, Any]) -> int:
  """Return the number of examples of a report, those of all tasks included."""
  tasks = summary.get('tasks', {})
  return summary.get('examples', 0) + sum(task['cases'] for task in tasks.values())


def check_skipped(summary: Mapping[str, Any], share: float, manifest: str) -> None:
  """Raise ValueError if more than `share` of the manifest was skipped."""
  skipped = summary['skipped']
  total = count_examples(summary) + len(skipped)
  if len(skipped) > share * total:
    raise ValueError(
      f'{manifest}: {len(skipped)} of {total} examples were skipped; the limit is'
      f' --max_skipped={share:g}. The report is on the others. The first reason:'
      f' {skipped[0]["reason"]}'
    )


def _write(path: Path, content: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(path, content)


def _read_curves(checkpoint: str | None) -> dict[str, list[tuple[int, float]]]:
  """Return the losses of the training that a checkpoint is of, if it is a workdir."""
  metrics = Path(checkpoint or '') / 'metrics.jsonl'
  return report.read_curves(metrics) if checkpoint and metrics.is_file() else {}


def main(argv: Sequence[str]) -> None:
  """Parse the config and evaluate."""
  del argv
  compilation_cache.enable(assets.cache_folder() / 'compiled')
  args = flags.FLAGS
  names = [field.name for field in dataclasses.fields(Options)]
  options = Options(**{name: getattr(args, name) for name in names})
  summary = evaluate(parse_train(args.config), args.manifest, args.output, options)
  if 'examples' in summary:
    print(format_table(summary))
  if 'tasks' in summary:
    print(format_tasks(summary['tasks']))
  print(f'evaluate: {count_examples(summary)} examples, see {args.output}/report.html')
  if count := summary['without_speech']['count']:
    print(
      f'evaluate: no speech was heard in {count} recordings; report.json names them'
    )
  check_skipped(summary, args.max_skipped, args.manifest)


if __name__ == '__main__':
  # Here and not at import, because other programs have flags with the same names.
  config_flag.define(TrainConfig)
  flags.DEFINE_string('manifest', None, 'JSON lines of audio and text, or a folder')
  flags.DEFINE_string('output', None, 'folder for the reports')
  flags.DEFINE_string('checkpoint', None, 'a workdir of train or an adapter file')
  names = ', '.join((MODALITY, *make_tasks()))
  flags.DEFINE_list('suite', None, f'of {names}; by default what the fields allow')
  flags.DEFINE_integer('limit', None, 'lines of each task to read of a manifest', 1)
  flags.DEFINE_string(
    'cascade',
    'asset:whisper-base',
    f'a CTranslate2 folder of Whisper, or {NO_CASCADE!r}',
  )
  flags.DEFINE_float(
    'babble_snr', None, 'dB above a babble of other utterances', -20, 60
  )
  flags.DEFINE_bool('contained', False, 'refuse audio outside of the manifest folder')
  flags.DEFINE_string('judge_url', None, 'OpenAI-compatible API that scores answers')
  flags.DEFINE_string('judge_model', None, 'name of a model of --judge_url')
  flags.DEFINE_float(
    'max_skipped', 0.05, 'share of the examples that may be skipped', 0, 1
  )
  flags.mark_flags_as_required(['config', 'manifest', 'output'])
  program.run(main)
