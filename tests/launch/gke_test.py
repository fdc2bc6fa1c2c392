# SPDX-License-Identifier: Apache-2.0
"""JobSets match their schema, and run exactly the command of a work unit."""

import shlex

import pytest
import yaml

from acl_jax.tpu.slices import GENERATIONS, Slice, parse_slice
from launch import gke, tpus
from launch.work_units import MULTISLICE_VARIABLES, WorkUnit
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


def object_of(required=True, **properties):
  """Return the schema of an object with exactly these fields."""
  return {
    'type': 'object',
    'properties': properties,
    'additionalProperties': False,
    'required': list(properties) if required else [],
  }


def array_of(items):
  return {'type': 'array', 'items': items}


# The fields we use of JobSet's CustomResourceDefinition, of batch/v1 and of core/v1.
CONTAINER = object_of(
  name=LABEL,
  image=TEXT,
  command={'type': 'array', 'items': TEXT, 'minItems': 1},
  resources=object_of(limits=object_of(**{'google.com/tpu': COUNT})),
  volumeMounts=array_of(object_of(name=LABEL, mountPath=TEXT)),
)
VOLUME = object_of(name=LABEL, csi=object_of(driver=TEXT, volumeAttributes=TEXTS))
POD = object_of(
  restartPolicy={'const': 'Never'},  # required by a pod failure policy
  hostNetwork={'type': 'boolean'},
  dnsPolicy={'enum': ['ClusterFirstWithHostNet']},
  terminationGracePeriodSeconds=COUNT,
  nodeSelector=TEXTS,
  tolerations=array_of(object_of(key=TEXT, operator={'const': 'Exists'})),
  containers=array_of(CONTAINER),
  volumes=array_of(VOLUME),
)
EXIT_CODES = object_of(
  containerName=LABEL,
  operator={'enum': ['In', 'NotIn']},
  values={'type': 'array', 'items': COUNT, 'uniqueItems': True, 'maxItems': 255},
)
POD_RULE = object_of(
  required=False,
  action={'enum': ['FailJob', 'FailIndex', 'Ignore', 'Count']},
  onPodConditions=array_of(object_of(type=TEXT, status={'enum': ['True', 'False']})),
  onExitCodes=EXIT_CODES,
)
JOB = object_of(
  parallelism=COUNT,
  completions=COUNT,
  completionMode={'const': 'Indexed'},
  backoffLimit={'const': 0},
  podFailurePolicy=object_of(rules=array_of(POD_RULE)),
  template=object_of(metadata=object_of(annotations=TEXTS), spec=POD),
)
RULE = object_of(
  name={'type': 'string', 'pattern': '^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$'},
  action={'enum': ['FailJobSet', 'RestartJobSet', 'RestartJobSetAndIgnoreMaxRestarts']},
  onJobFailureReasons=array_of({'enum': ['PodFailurePolicy', 'BackoffLimitExceeded']}),
)
REPLICATED_JOB = object_of(name=LABEL, replicas=COUNT, template=object_of(spec=JOB))
JOBSET = object_of(
  apiVersion={'const': 'jobset.x-k8s.io/v1alpha2'},
  kind={'const': 'JobSet'},
  metadata=object_of(name=LABEL, annotations=TEXTS),
  spec=object_of(
    failurePolicy=object_of(
      maxRestarts={'type': 'integer', 'minimum': 0}, rules=array_of(RULE)
    ),
    replicatedJobs=array_of(REPLICATED_JOB),
  ),
)


def validate(jobset):
  pytest.importorskip('jsonschema', reason='of the extra [dev]').validate(
    jobset, JOBSET
  )


def make_cluster(tpu='v5litepod-16', num_slices=1, spot=False):
  return gke.Cluster(parse_slice(tpu), num_slices, 'gcr.io/mine/acl_jax', spot, 100)


def pod_of(jobset):
  [slices] = jobset['spec']['replicatedJobs']
  return slices['template']['spec']['template']['spec']


@pytest.mark.parametrize(
  'name, cluster',
  [
    ('v5e', make_cluster()),
    ('v5p_slices_spot', make_cluster('v5p-32', 4, spot=True)),
    ('tpu7x', make_cluster('tpu7x:4x4x12')),
  ],
)
def test_rendered_manifests(name, cluster):
  text = gke.render_manifests([UNIT], cluster)
  goldens.check(f'{name}.yaml', text)
  [jobset] = yaml.safe_load_all(text)
  validate(jobset)


@pytest.mark.parametrize('generation', GENERATIONS, ids=lambda g: g.name)
def test_pods_and_chips_match_the_slice(generation):
  for topology in generation.topologies:
    tpu = Slice(generation, topology)
    cluster = gke.Cluster(tpu, 1, 'image', False, 0)
    if tpus.cloud_names(tpu).machine is None:
      with pytest.raises(ValueError, match=f'--tpu: .* {generation.name}'):
        gke.render_manifests([UNIT], cluster)
      continue
    jobset = gke.jobset(UNIT, cluster)
    validate(jobset)
    job = jobset['spec']['replicatedJobs'][0]['template']['spec']
    chips = pod_of(jobset)['containers'][0]['resources']['limits']['google.com/tpu']
    assert job['parallelism'] == job['completions']
    assert job['parallelism'] * chips == tpu.chips


def test_a_sweep_is_one_document_per_unit():
  text = gke.render_manifests([UNIT, HARD_UNIT], make_cluster())
  documents = list(yaml.safe_load_all(text))
  assert [d['metadata']['name'] for d in documents] == ['run-7b', 'hard']


def test_single_host_slices_cannot_be_combined():
  with pytest.raises(ValueError, match='--num_slices=2: 2x2'):
    gke.render_manifests([UNIT], make_cluster('v6e:2x2', 2))


def test_kubernetes_starts_exactly_the_command():
  cluster = make_cluster()
  [jobset] = yaml.safe_load_all(gke.render_manifests([HARD_UNIT], cluster))
  command = pod_of(jobset)['containers'][0]['command']
  started = [read_by_kubernetes(word, {'A': 'replaced'}) for word in command]
  assert started == gke.container_command(HARD_UNIT, cluster)
  assert started[-2:] == list(HARD)


@pytest.mark.full
@pytest.mark.parametrize('unit', [UNIT, HARD_UNIT], ids=lambda u: u.name)
def test_xpk_starts_exactly_the_command(unit):
  cluster = make_cluster(num_slices=2)
  argv = read_by_bash(gke.xpk_command(unit, cluster))
  # xpk puts it into a block of YAML, which Kubernetes and then bash read.
  [command] = [a.removeprefix('--command=') for a in argv if a.startswith('--command=')]
  assert command.isascii() and command.isprintable()
  line = read_by_kubernetes(command, {'A': 'replaced'})
  assert read_by_bash(line) == ['exec', *gke.container_command(unit, cluster)]
  assert argv[:3] == ['xpk', 'workload', 'create'] and argv[-1] == '--cluster='
  assert {'--num-slices=2', '--max-restarts=100', '--tpu-type=v5litepod-16'} < set(argv)


def test_multislice_variables_are_unset_for_a_single_slice():
  command = gke.container_command(UNIT, make_cluster())
  assert {f'--unset={name}' for name in MULTISLICE_VARIABLES} < set(command)
  # For several slices, Kubernetes Engine sets them.
  command = gke.container_command(UNIT, make_cluster(num_slices=2))
  assert not [word for word in command if 'MEGASCALE' in word]


@pytest.mark.parametrize(
  'code, restarts', [(0, None), (1, False), (2, False), (42, True)]
)
def test_exit_codes_that_restart(code, restarts):
  job = gke.jobset(UNIT, make_cluster())['spec']['replicatedJobs'][0]['template'][
    'spec'
  ]
  disrupted, error = job['podFailurePolicy']['rules']
  assert disrupted['action'] == 'Count' and error['action'] == 'FailJob'
  if restarts is not None:  # a pod that ends with 0 has not failed
    assert (code in error['onExitCodes']['values']) == restarts


def test_comments_contain_the_equivalent_xpk_command():
  text = gke.render_manifests([UNIT], make_cluster())
  lines = [line for line in text.splitlines() if line.startswith('#   xpk ')]
  assert [shlex.split(line[4:])[:3] for line in lines] == [
    ['xpk', 'workload', 'create']
  ]
