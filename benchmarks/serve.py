# SPDX-License-Identifier: Apache-2.0
"""Measure the speech chat server: latency, throughput, what it reuses, long utterances.

  .venv/bin/python benchmarks/serve.py                      # 1, 8 and 32 clients
  .venv/bin/python benchmarks/serve.py --soak=20            # minutes, at 8 clients

The server is a process of its own; the clients are in this one, on loopback. Every
question is a recording of 3.5 to 4.5 s with a noise of its own, so that it is heard
anew. Answers are greedy and stream. `ttft` is the time from a request to the first text
of its answer, and of `first_audio_ms_p50` to the first sound, one client each.
`ratio_vs_transformers` and `ratio_vs_engine` divide tokens per second at 8 clients by
those of Transformers, one answer after another, and of our batch engine with 8 slots,
both with their own hearing included; `ratio_vs_engine_without_hearing` leaves out the
engine's. They answer the same questions, after the server has stopped.
`ttft_ratio_vs_transformers` is our time over theirs, so that less is better.
`utterance_ms` has the parts of the latency after 4 s and 20 s that were said in real
time. The last line is JSON; None stands for what was not measured. Linux only.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from absl import app, flags
from websockets.exceptions import WebSocketException

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from benchmarks import serve_clients, serve_questions, serve_realtime, serve_soak
from benchmarks.machine import print_result
from benchmarks.serve_clients import Answer, ask, ask_all, chat_body, question
from benchmarks.serve_process import ROOT, ServerProcess, environment
from benchmarks.serve_questions import Questions, Samples

_CONFIG = flags.DEFINE_string('config', 'configs/smol.py', 'the model')
_CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'of the config')
_CLIENTS = flags.DEFINE_list('clients', ['1', '8', '32'], 'numbers of clients at once')
_QUESTIONS = flags.DEFINE_integer(
  'questions', 64, 'for each number of clients, one a client at least', lower_bound=1
)
_THEIRS = flags.DEFINE_integer('theirs', 16, 'of them for Transformers', lower_bound=1)
_TRIALS = flags.DEFINE_integer(
  'trials', 5, 'second turns, spoken answers, long utterances', lower_bound=1
)
_TOKENS = flags.DEFINE_integer('max_tokens', 64, 'limit of an answer', lower_bound=1)
_SOAK = flags.DEFINE_float(
  'soak', 0.0, 'minutes of load at 8 clients, and no more', 0.0
)

BATCH = 8  # clients of the comparisons, and of a soak
SHORT, LONG = 4.0, 20.0  # seconds of utterances


class Load:
  """Everything that is asked of a running server; `errors` has what went wrong."""

  def __init__(self, server: ServerProcess, client: httpx.AsyncClient, seed: int = 0):
    self.server, self.client, self.questions = server, client, Questions(seed)
    self.errors: list[str] = []

  async def level(
    self, num_clients: int
  ) -> tuple[dict[str, Any], list[Samples], list[Answer]]:
    """Return the figures of one number of clients, its questions and answers."""
    samples = self.questions.take(max(_QUESTIONS.value, num_clients))
    bodies = [chat_body([question(each)], _TOKENS.value) for each in samples]
    answers, seconds = await ask_all(self.client, bodies, num_clients)
    self.errors += [answer.error for answer in answers if answer.error]
    figures = serve_clients.summarise(answers, seconds)
    print(f'{num_clients} clients: {seconds:.1f} s, {_rounded(figures)}', flush=True)
    return figures, samples, answers

  async def others(self) -> dict[str, Any]:
    """Return what one client measures: second turns, sound, long utterances."""
    ratio, errors = await serve_clients.second_turns(
      self.client, self.questions, _TRIALS.value, _TOKENS.value
    )
    self.errors += errors
    result: dict[str, Any] = {'second_turn_prefill_ratio': ratio}
    result['first_audio_ms_p50'] = await self._first_audio()
    short = [self.questions.utterance(SHORT) for _ in range(_TRIALS.value)]
    long = [self.questions.utterance(LONG) for _ in range(_TRIALS.value)]
    try:
      url, limit = self.server.url, _TOKENS.value
      result |= await serve_realtime.compare(url, short, long, limit)
    except (RuntimeError, OSError, WebSocketException) as error:
      self.errors.append(str(error))
      result['long_utterance_ratio'] = None
    return result

  async def _first_audio(self) -> float | None:
    times = []
    for samples in self.questions.take(_TRIALS.value):
      body = chat_body([question(samples)], _TOKENS.value, spoken=True)
      answer = await ask(self.client, body)
      if answer.error:
        self.errors.append(answer.error)
      elif answer.first_audio is not None:
        times.append(answer.first_audio)
    return serve_clients.percentile(times, 50)


async def measure(
  server: ServerProcess,
) -> tuple[dict[str, Any], list[Samples], list[Answer]]:
  """Return all figures of a server, with questions and answers at 8 clients, if any."""
  levels, questions, answers = {}, [], []
  async with serve_clients.open_client(server.url) as client:
    load = Load(server, client)
    for num_clients in map(int, _CLIENTS.value):
      figures, asked, answered = await load.level(num_clients)
      levels[str(num_clients)] = figures
      if num_clients == BATCH:
        questions, answers = asked, answered
    result = {'clients': levels, **await load.others()}
  compiled = server.counter('acl_jax_compilations_total')
  result |= {'compilations_after_ready': int(compiled), 'errors': len(load.errors)}
  for error in load.errors[:3]:
    print(f'error: {error}', flush=True)
  return result, questions, answers


def compare(
  result: dict[str, Any], questions: list[Samples], answers: list[Answer], folder: Path
) -> dict[str, Any]:
  """Return the ratios to Transformers and to the batch engine."""
  file, exported = folder / 'questions.npz', folder / 'exported'
  serve_questions.save(file, questions)
  _run('-m', 'acl_jax.export', *_model_flags(), '--llm=include', f'--output={exported}')
  common = [f'--questions={file}', f'--max_tokens={_TOKENS.value}']
  theirs = _run_rival(
    'transformers', f'--model={exported}', f'--count={_THEIRS.value}', *common
  )
  model = [flag.replace('--config', '--model') for flag in _model_flags()]
  count = [f'--count={len(questions)}', f'--slots={BATCH}']
  engine = _run_rival('engine', *model, *count, *common)
  ours = result['clients'][str(BATCH)]['tokens_per_second']
  pairs = zip(answers, theirs['texts'], strict=False)  # they answer fewer
  same = [answer.text.strip() == text.strip() for answer, text in pairs]
  first = result['clients'].get('1', {}).get('ttft_ms_p50')
  return {
    'ratio_vs_transformers': ours / theirs['tokens_per_second'],
    'ratio_vs_engine': ours / engine['tokens_per_second'],
    'ratio_vs_engine_without_hearing': ours
    / engine['tokens_per_second_without_hearing'],
    'ttft_ratio_vs_transformers': first and first / theirs['ttft_ms_p50'],
    'transformers_tokens_per_second': theirs['tokens_per_second'],
    'transformers_ttft_ms_p50': theirs['ttft_ms_p50'],
    'engine_tokens_per_second': engine['tokens_per_second'],
    'same_greedy': sum(same) / len(same),
  }


def _run_rival(rival: str, *arguments: str) -> dict[str, Any]:
  program = str(ROOT / 'benchmarks' / 'serve_rivals.py')
  output = _run(program, f'--rival={rival}', *arguments)
  return json.loads(output.splitlines()[-1])


def _run(*arguments: str) -> str:
  """Run Python with these arguments; return what it printed."""
  variables = environment()
  with tempfile.TemporaryDirectory() as modules:  # Transformers copies code there
    variables['HF_MODULES_CACHE'] = modules
    command, pipe = [sys.executable, *arguments], subprocess.PIPE
    done = subprocess.run(
      command, cwd=ROOT, env=variables, stdout=pipe, text=True, check=True
    )
  return done.stdout


def _model_flags() -> list[str]:
  checkpoint = [f'--checkpoint={_CHECKPOINT.value}'] if _CHECKPOINT.value else []
  return [f'--config={_CONFIG.value}', *checkpoint]


def _rounded(value: Any) -> Any:
  if isinstance(value, float):
    return round(value, 4)
  if isinstance(value, dict):
    return {key: _rounded(each) for key, each in value.items()}
  return [_rounded(each) for each in value] if isinstance(value, list) else value


def main(argv: Sequence[str]) -> None:
  """Start the server, load it, and compare."""
  del argv
  with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    with ServerProcess(_model_flags(), folder / 'server.log') as server:
      print(f'ready after {server.start_seconds:.0f} s', flush=True)
      if _SOAK.value:
        load = serve_soak.soak(server, _SOAK.value, BATCH, _TOKENS.value)
        result, questions, answers = asyncio.run(load), [], []
      else:
        result, questions, answers = asyncio.run(measure(server))
    if questions:
      print_result(_rounded(result))
      result |= compare(result, questions, answers, folder)
  print_result(_rounded(result))


if __name__ == '__main__':
  app.run(main)
