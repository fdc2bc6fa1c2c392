# SPDX-License-Identifier: Apache-2.0
"""JobSets and xpk commands: what they say, and that those who read them take it."""

import shlex

import pytest
import yaml

from acl_jax.tpu.slices import GENERATIONS, Slice, parse_slice
from launch import gke, tpus
from launch.work_units import STALE, WorkUnit
from tests.launch import goldens
from tests.launch.quoting_test import read_by_bash, read_by_kubernetes

HARD = ("--x=it's $(A) $$(A)", '--y=a\nb\té')
UNIT = WorkUnit(
  name='run-7b',
  argv=('-m', 'acl_jax.train', '--config=configs/x.py', '--workdir=/gcs/speech/7b'),
  env={'PYTHONUNBUFFERED': '1'},
  config='configs/x.py',
  workdir='/gcs/speech/7b',
  buckets=('corpora', 'speech'),
)
HARD_UNIT = WorkUnit(
  'hard', (*UNIT.argv, *HARD), {'A': '$(B)'}, UNIT.config, UNIT.workdir, ()
)

LABEL = {'type': 'string', 'pattern': '^[a-z]([a-z0-9-]*[a-z0-9])?$', 'maxLength': 63}
COUNT = {'type': 'integer', 'minimum': 1}
TEXT = {'type': 'string'}
TEXTS = {'type': 'object', 'additionalProperties': TEXT}


def thing(required=True, **properties):
  """Of exactly these fields."""
  return {
    'type': 'object',
    'properties': properties,
    'additionalProperties': False,
    'required': list(properties) if required else [],
  }


def several(items):
  return {'type': 'array', 'items': items}


# The fields that we use of the CustomResourceDefinition, of batch/v1 and of core/v1.
CONTAINER = thing(
  name=LABEL,
  image=TEXT,
  command={'type': 'array', 'items': TEXT, 'minItems': 1},
  resources=thing(limits=thing(**{'google.com/tpu': COUNT})),
  volumeMounts=several(thing(name=LABEL, mountPath=TEXT)),
)
VOLUME = thing(name=LABEL, csi=thing(driver=TEXT, volumeAttributes=TEXTS))
POD = thing(
  restartPolicy={'const': 'Never'},  # a pod failure policy takes no other
  hostNetwork={'type': 'boolean'},
  dnsPolicy={'enum': ['ClusterFirstWithHostNet']},
  terminationGracePeriodSeconds=COUNT,
  nodeSelector=TEXTS,
  tolerations=several(thing(key=TEXT, operator={'const': 'Exists'})),
  containers=several(CONTAINER),
  volumes=several(VOLUME),
)
EXIT_CODES = thing(
  containerName=LABEL,
  operator={'enum': ['In', 'NotIn']},
  values={'type': 'array', 'items': COUNT, 'uniqueItems': True, 'maxItems': 255},
)
POD_RULE = thing(
  required=False,
  action={'enum': ['FailJob', 'FailIndex', 'Ignore', 'Count']},
  onPodConditions=several(thing(type=TEXT, status={'enum': ['True', 'False']})),
  onExitCodes=EXIT_CODES,
)
JOB = thing(
  parallelism=COUNT,
  completions=COUNT,
  completionMode={'const': 'Indexed'},
  backoffLimit={'const': 0},
  podFailurePolicy=thing(rules=several(POD_RULE)),
  template=thing(metadata=thing(annotations=TEXTS), spec=POD),
)
RULE = thing(
  name={'type': 'string', 'pattern': '^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$'},
  action={'enum': ['FailJobSet', 'RestartJobSet', 'RestartJobSetAndIgnoreMaxRestarts']},
  onJobFailureReasons=several({'enum': ['PodFailurePolicy', 'BackoffLimitExceeded']}),
)
REPLICATED_JOB = thing(name=LABEL, replicas=COUNT, template=thing(spec=JOB))
JOBSET = thing(
  apiVersion={'const': 'jobset.x-k8s.io/v1alpha2'},
  kind={'const': 'JobSet'},
  metadata=thing(name=LABEL, annotations=TEXTS),
  spec=thing(
    failurePolicy=thing(
      maxRestarts={'type': 'integer', 'minimum': 0}, rules=several(RULE)
    ),
    replicatedJobs=several(REPLICATED_JOB),
  ),
)


def validate(jobset):
  pytest.importorskip('jsonschema', reason='of the extra [dev]').validate(
    jobset, JOBSET
  )


def cluster(tpu='v5litepod-16', num_slices=1, spot=False):
  return gke.Cluster(parse_slice(tpu), num_slices, 'gcr.io/mine/acl_jax', spot, 100)


def pod_of(jobset):
  [slices] = jobset['spec']['replicatedJobs']
  return slices['template']['spec']['template']['spec']


@pytest.mark.parametrize(
  'name, how',
  [
    ('v5e', cluster()),
    ('v5p_slices_spot', cluster('v5p-32', 4, spot=True)),
    ('tpu7x', cluster('tpu7x:4x4x12')),
  ],
)
def test_what_is_rendered(name, how):
  text = gke.manifests([UNIT], how)
  goldens.check(f'{name}.yaml', text)
  [jobset] = yaml.safe_load_all(text)
  validate(jobset)


@pytest.mark.parametrize('generation', GENERATIONS, ids=lambda g: g.name)
def test_pods_and_chips_are_those_of_the_slice(generation):
  for topology in generation.topologies:
    tpu = Slice(generation, topology)
    how = gke.Cluster(tpu, 1, 'image', False, 0)
    if tpus.offer(tpu).machine is None:
      with pytest.raises(ValueError, match=f'Engine has no {generation.name}'):
        gke.manifests([UNIT], how)
      continue
    jobset = gke.jobset(UNIT, how)
    validate(jobset)
    job = jobset['spec']['replicatedJobs'][0]['template']['spec']
    chips = pod_of(jobset)['containers'][0]['resources']['limits']['google.com/tpu']
    assert job['parallelism'] == job['completions']
    assert job['parallelism'] * chips == tpu.chips


def test_a_sweep_is_several_documents():
  documents = list(yaml.safe_load_all(gke.manifests([UNIT, HARD_UNIT], cluster())))
  assert [d['metadata']['name'] for d in documents] == ['run-7b', 'hard']


def test_a_slice_of_one_host_stands_alone():
  with pytest.raises(ValueError, match='a slice of one host, 2x2, cannot be one of'):
    gke.manifests([UNIT], cluster('v6e:2x2', 2))


def test_kubernetes_starts_exactly_the_command():
  how = cluster()
  [jobset] = yaml.safe_load_all(gke.manifests([HARD_UNIT], how))
  command = pod_of(jobset)['containers'][0]['command']
  started = [read_by_kubernetes(word, {'A': 'replaced'}) for word in command]
  assert started == gke.command(HARD_UNIT, how)
  assert started[-2:] == list(HARD)


@pytest.mark.parametrize('unit', [UNIT, HARD_UNIT], ids=lambda u: u.name)
def test_xpk_starts_exactly_the_command(unit):
  how = cluster(num_slices=2)
  argv = read_by_bash(gke.xpk(unit, how))
  # It goes into a block of YAML, and from there to Kubernetes and bash.
  [command] = [a.removeprefix('--command=') for a in argv if a.startswith('--command=')]
  assert command.isascii() and command.isprintable()
  line = read_by_kubernetes(command, {'A': 'replaced'})
  assert read_by_bash(line) == ['exec', *gke.command(unit, how)]
  assert argv[:3] == ['xpk', 'workload', 'create'] and argv[-1] == '--cluster='
  assert {'--num-slices=2', '--max-restarts=100', '--tpu-type=v5litepod-16'} < set(argv)


def test_the_variables_of_an_earlier_slice_are_taken_away():
  alone = gke.command(UNIT, cluster())
  assert {f'--unset={name}' for name in STALE} < set(alone)
  # Of several slices, Kubernetes Engine says in them which is which.
  assert not [a for a in gke.command(UNIT, cluster(num_slices=2)) if 'MEGASCALE' in a]


@pytest.mark.parametrize(
  'code, restarts', [(0, None), (1, False), (2, False), (42, True)]
)
def test_which_exit_codes_restart(code, restarts):
  job = gke.jobset(UNIT, cluster())['spec']['replicatedJobs'][0]['template']['spec']
  disrupted, error = job['podFailurePolicy']['rules']
  assert disrupted['action'] == 'Count' and error['action'] == 'FailJob'
  if restarts is not None:  # a pod that ends with 0 has not failed
    assert (code in error['onExitCodes']['values']) == restarts


def test_comments_hold_the_command_that_does_the_same():
  text = gke.manifests([UNIT], cluster())
  lines = [line for line in text.splitlines() if line.startswith('#   xpk ')]
  assert [shlex.split(line[4:])[:3] for line in lines] == [
    ['xpk', 'workload', 'create']
  ]
