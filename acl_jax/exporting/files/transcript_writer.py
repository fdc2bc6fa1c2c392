# SPDX-License-Identifier: Apache-2.0
"""Writing a transcript with a decoder: greedily, or by beam search."""

import torch

END = 0  # class that ends a transcript
MAX_NGRAM, REPEATS = 4, 8  # an n-gram this often in a row ends a transcript


def write_transcripts(
  decoder, embed_start, embed_tokens, cross, frame_mask, stack_factor: int, beams: int
) -> torch.Tensor:
  """Return the classes of each recording's transcript, END after it [a s].

  A transcript ends with END, at its limit of tokens, or when it repeats itself. Of
  several the one of the highest mean log-probability is returned, which is final when
  no unfinished one has a higher mean. A beam of one is greedy decoding.
  """
  a, k, device = len(frame_mask), beams, frame_mask.device
  limits = -(-frame_mask.sum(1) // stack_factor).repeat_interleave(k)
  cross = [[x.repeat_interleave(k, 0) for x in layer] for layer in cross]
  cross_mask = frame_mask[:, None, None].repeat_interleave(k, 0)
  num_steps = -(-frame_mask.shape[1] // stack_factor)
  classes = torch.full((a * k, num_steps), END, device=device)
  # The beams of a recording start equal, so all but one are given up.
  scores = torch.full((a, k), -torch.inf, device=device)
  scores[:, 0] = 0
  scores, done = scores.view(-1), limits == 0
  x, cache = embed_start[None].expand(a * k, -1, -1), None
  for step in range(num_steps):
    if done.all():
      break
    hidden, cache = decoder(x, cross, cross_mask, cache)
    logits = hidden[:, -1] @ embed_tokens.T
    ended = done | (step >= limits)
    scores, parents, best = choose(scores, logits, ended, k)
    if k > 1:
      classes = classes[parents]
      cache = [(keys[parents], values[parents]) for keys, values in cache]
    classes[:, step] = best
    repeats = ends_in_repetition(classes[:, : step + 1])
    done = (best == END) | repeats
    if k > 1:
      scores, done = give_up(classes, scores.masked_fill(repeats, -torch.inf), done, k)
    x = embed_tokens[best[:, None]]
  best = means(classes, scores).view(a, k).argmax(1)
  return classes.view(a, k, num_steps)[torch.arange(a, device=device), best]


def choose(scores, logits, ended, k: int):
  """Return the scores of the k best continuations, what they continue, and classes."""
  values, classes = logits.float().log_softmax(-1).topk(min(k, logits.shape[-1]))
  # A transcript that has ended has one continuation, END, which costs nothing.
  values = values.masked_fill(ended[:, None], -torch.inf)
  values[:, 0] = values[:, 0].masked_fill(ended, 0)
  classes = classes.masked_fill(ended[:, None], END)
  a, width = len(scores) // k, values.shape[1]
  scores, best = (scores[:, None] + values).view(a, -1).topk(k)
  parents = best // width + k * torch.arange(a, device=best.device)[:, None]
  chosen = classes.view(a, -1).gather(1, best)
  return scores.view(-1), parents.view(-1), chosen.view(-1)


def give_up(classes, scores, done, k: int):
  """Give up what cannot become better than the best that is done."""
  mean, is_done = means(classes, scores).view(-1, k), done.view(-1, k)
  finished = mean.masked_fill(~is_done, -torch.inf).amax(1, keepdim=True)
  settled = ((mean <= finished) | is_done).all(1, keepdim=True)
  hopeless = (settled & ~is_done).view(-1)
  return scores.masked_fill(hopeless, -torch.inf), done | hopeless


def means(classes, scores):
  """Return the mean log-probability of the classes of each, with one END."""
  return scores / ((classes != END).sum(1) + 1)


def ends_in_repetition(classes: torch.Tensor) -> torch.Tensor:
  """Return whether each row ends in one n-gram, `REPEATS` times in a row."""
  repeated = torch.zeros(len(classes), dtype=torch.bool, device=classes.device)
  for n in range(1, MAX_NGRAM + 1):
    if classes.shape[1] >= n * REPEATS:
      tail = classes[:, -n * REPEATS :]
      repeated |= (tail[:, n:] == tail[:, :-n]).all(1)
  return repeated
