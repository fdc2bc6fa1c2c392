# SPDX-License-Identifier: Apache-2.0
"""Jinja2 as Transformers runs chat templates, but no template can run away.

A template comes with a model that anybody may have published. The sandbox keeps it from
Python's internals; `bounds` keeps it from endless loops and from gigabytes.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Any

import jinja2
from jinja2 import ext, nodes, sandbox, utils, visitor

from acl_jax.text import bounds
from acl_jax.text.bounds import bounded

MAX_TEMPLATE = 1 << 20  # characters of a template

# fmt: off
METHODS = {
  str: {
    'capitalize', 'casefold', 'count', 'endswith', 'find', 'index', 'isalnum',
    'isalpha', 'isascii', 'isdecimal', 'isdigit', 'islower', 'isnumeric', 'isspace',
    'istitle', 'isupper', 'join', 'lower', 'lstrip', 'partition', 'removeprefix',
    'removesuffix', 'replace', 'rfind', 'rindex', 'rpartition', 'rsplit', 'rstrip',
    'split', 'splitlines', 'startswith', 'strip', 'swapcase', 'title', 'upper',
  },
  dict: {'copy', 'get', 'items', 'keys', 'values'},
  (list, tuple): {'copy', 'count', 'index'},
  (int, float, bytes): set(),
}
# fmt: on


class Refusal(jinja2.TemplateError):
  """What a template says by `raise_exception`."""


def render(template: jinja2.Template, variables: Mapping[str, Any]) -> str:
  """Render within the limits; any exception may come from the template."""
  token = bounds.budget.set(bounds.Budget())
  try:
    return ''.join(template.generate(bounded(dict(variables))))
  finally:
    bounds.budget.reset(token)


@functools.lru_cache(maxsize=16)
def compile_template(source: str, today: date) -> jinja2.Template:
  """Compile a template; any exception may come from it.

  today: what `strftime_now` formats.
  """
  if len(source) > MAX_TEMPLATE:
    raise ValueError(f'it has {len(source)} characters; the limit is {MAX_TEMPLATE}')
  environment = _Environment(today)
  return environment.from_string(_Guards().visit(environment.parse(source)))


class _Namespace(utils.Namespace):
  """Takes no name of Python's internals, and no other namespace."""

  def __init__(*args: Any, **kwargs: Any):  # noqa: B902
    utils.Namespace.__init__(args[0])
    for name, value in dict(*args[1:], **kwargs).items():
      args[0][name] = value

  def __setitem__(self, name: str, value: Any) -> None:
    if name.startswith('_') or isinstance(value, utils.Namespace):
      raise jinja2.TemplateError(f'a namespace does not take {name!r}')
    super().__setitem__(name, value)


class _Generation(ext.Extension):
  """`{% generation %}` marks what a model is trained on; here it changes nothing."""

  tags = {'generation'}

  def parse(self, parser: Any) -> nodes.Node:
    line = next(parser.stream).lineno
    body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
    return nodes.Scope(body, lineno=line)


class _Environment(sandbox.ImmutableSandboxedEnvironment):
  """Transformers' environment, with limits."""

  intercepted_binops = frozenset(('+', '*', '**', '%'))

  def __init__(self, today: date):
    super().__init__(
      trim_blocks=True,
      lstrip_blocks=True,
      extensions=[_Generation, ext.loopcontrols],
      finalize=jinja2.pass_context(self._finalize),
    )
    self.filters = bounds.make_filters()
    self.globals = {
      'range': sandbox.safe_range,
      'dict': dict,
      'namespace': _Namespace,
      'raise_exception': _raise_exception,
      'strftime_now': today.strftime,
    }

  @staticmethod
  def _finalize(context: Any, value: Any) -> Any:
    del context
    bounds.charge(len(value) if isinstance(value, str) else 1)
    return value

  def count(self, items: Iterable[Any]) -> Iterator[Any]:
    """Yield items, each of which is a step."""
    for item in items:
      bounds.charge()
      yield item

  def bounded(self, value: Any) -> Any:
    """Return a list or mapping of a template."""
    return bounded(value)

  def concatenate(self, *values: Any) -> str:
    """Join the operands of `~`."""
    return bounds.join(values)

  def call(__self, __context, __obj, *args, **kwargs):  # noqa: B902
    """Call a function, or a method that is listed."""
    bounds.charge()
    method = getattr(__obj, '__wrapped__', __obj)  # str.format is wrapped
    owner, name = getattr(method, '__self__', None), getattr(method, '__name__', '')
    for kind, names in METHODS.items():
      if isinstance(owner, kind) and name not in names:
        raise jinja2.TemplateError(f'it calls .{name}(), which is not available')
    if isinstance(owner, str) and name in ('join', 'replace'):
      __obj = bounds.join if name == 'join' else bounds.replace
      args = (*args, owner) if name == 'join' else (owner, *args)
    return bounded(super().call(__context, __obj, *args, **kwargs))

  def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
    """Apply an operator whose result can be much larger than its operands."""
    bounds.charge()
    if operator == '%' and isinstance(left, (str, bytes)):
      raise jinja2.TemplateError('it formats text by %, which is not available')
    if operator == '*':
      for value, times in ((left, right), (right, left)):
        if hasattr(value, '__len__') and isinstance(times, int):
          if len(value) * times > bounds.MAX_CHARACTERS:
            raise jinja2.TemplateError(f'it repeats a text {times} times')
    if operator == '**' and abs(right) > bounds.MAX_BITS:
      raise jinja2.TemplateError(f'it computes a power of {right}')
    return bounded(super().call_binop(context, operator, left, right))


def _raise_exception(message: Any) -> None:
  raise Refusal(str(message))


class _Guards(visitor.NodeTransformer):
  """Puts the environment's checks where Jinja has no hook of its own."""

  def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
    return nodes.Const(node.data, lineno=node.lineno)  # counted like expressions

  def visit_For(self, node: nodes.For) -> nodes.Node:
    if node.recursive:
      raise jinja2.TemplateError(f'line {node.lineno}: it has a recursive loop')
    self.generic_visit(node)
    node.iter = _call('count', node.iter)
    return node

  def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
    self.generic_visit(node)
    return _call('concatenate', *node.nodes)

  def _visit_container(self, node: Any) -> nodes.Node:
    self.generic_visit(node)
    is_target = getattr(node, 'ctx', 'load') != 'load'
    return node if is_target else _call('bounded', node)

  visit_List = visit_Tuple = visit_Dict = _visit_container


def _call(name: str, *args: Any) -> nodes.Call:
  function = nodes.EnvironmentAttribute(name)
  return nodes.Call(function, [*args], [], None, None, lineno=args[0].lineno)
