# SPDX-License-Identifier: Apache-2.0
"""A work unit as a JobSet of Kubernetes, and as the xpk command that makes the same.

A slice is a Job with a pod a host, on one node pool; the JobSet holds the slices and
restarts all of them together. Sources: jobset.sigs.k8s.io (v1alpha2); xpk 1.16;
docs.cloud.google.com/kubernetes-engine/docs/how-to/tpu-multislice.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import yaml

from acl_jax.tpu.slices import Slice
from launch import quoting
from launch.tpus import chips_per_host, hosts, machine_type, offer
from launch.work_units import RESTART_CODES, STALE, WorkUnit

GRACE_SECONDS = 300  # to save in; Spot machines are gone sooner, whatever is asked
_CONTAINER = 'main'


@dataclasses.dataclass(frozen=True)
class Cluster:
  """What the nodes are and what they run. The image's folder is the repository."""

  tpu: Slice
  num_slices: int
  image: str
  spot: bool
  max_restarts: int


def check(cluster: Cluster) -> None:
  """Refuses what no node pool offers."""
  tpu = cluster.tpu
  if offer(tpu).machine is None:
    raise ValueError(f'--tpu: Kubernetes Engine has no {tpu.generation.name}')
  if cluster.num_slices > 1 and hosts(tpu) == 1:
    raise ValueError(
      f'--num_slices={cluster.num_slices}: a slice of one host, {tpu.topology}, cannot'
      ' be one of several'
    )


def manifests(units: Sequence[WorkUnit], cluster: Cluster) -> str:
  """YAML for `kubectl apply`; its comments say what the cluster must have."""
  check(cluster)
  return ''.join(
    f'---\n{_comment(unit, cluster)}'
    + yaml.safe_dump(jobset(unit, cluster), sort_keys=False, width=4096)
    for unit in units
  )


def jobset(unit: WorkUnit, cluster: Cluster) -> dict[str, Any]:
  """The JobSet. An error fails it at once; whatever else ends a pod restarts it."""
  job = {
    'parallelism': hosts(cluster.tpu),
    'completions': hosts(cluster.tpu),
    'completionMode': 'Indexed',
    'backoffLimit': 0,
    'podFailurePolicy': {
      'rules': [
        # A pod that had to go may end in any way: that is no error.
        {
          'action': 'Count',
          'onPodConditions': [{'type': 'DisruptionTarget', 'status': 'True'}],
        },
        {
          'action': 'FailJob',
          'onExitCodes': {
            'containerName': _CONTAINER,
            'operator': 'NotIn',
            'values': sorted(RESTART_CODES),
          },
        },
      ]
    },
    'template': _pod(unit, cluster),
  }
  return {
    'apiVersion': 'jobset.x-k8s.io/v1alpha2',
    'kind': 'JobSet',
    'metadata': {
      'name': unit.name,
      'annotations': {
        'alpha.jobset.sigs.k8s.io/exclusive-topology': 'cloud.google.com/gke-nodepool'
      },
    },
    'spec': {
      'failurePolicy': {
        'maxRestarts': cluster.max_restarts,
        'rules': [
          {
            'name': 'error',
            'action': 'FailJobSet',
            'onJobFailureReasons': ['PodFailurePolicy'],
          }
        ],
      },
      'replicatedJobs': [
        {
          'name': 'slice',
          'replicas': cluster.num_slices,
          'template': {'spec': job},
        }
      ],
    },
  }


def _pod(unit: WorkUnit, cluster: Cluster) -> dict[str, Any]:
  tpu = cluster.tpu
  selector = {
    'cloud.google.com/gke-tpu-accelerator': offer(tpu).accelerator,
    'cloud.google.com/gke-tpu-topology': tpu.topology,
  }
  tolerations = [{'key': 'google.com/tpu', 'operator': 'Exists'}]
  if cluster.spot:
    selector['cloud.google.com/gke-spot'] = 'true'
    tolerations.append({'key': 'cloud.google.com/gke-spot', 'operator': 'Exists'})
  return {
    'metadata': {'annotations': {'gke-gcsfuse/volumes': 'true'}},
    'spec': {
      'restartPolicy': 'Never',
      'hostNetwork': True,  # slices talk to each other at the speed of the machine
      'dnsPolicy': 'ClusterFirstWithHostNet',
      'terminationGracePeriodSeconds': GRACE_SECONDS,
      'nodeSelector': selector,
      'tolerations': tolerations,
      'containers': [
        {
          'name': _CONTAINER,
          'image': cluster.image,
          'command': [quoting.kubernetes(word) for word in command(unit, cluster)],
          'resources': {'limits': {'google.com/tpu': chips_per_host(tpu)}},
          'volumeMounts': [
            {'name': f'bucket-{number}', 'mountPath': f'/gcs/{bucket}'}
            for number, bucket in enumerate(unit.buckets)
          ],
        }
      ],
      'volumes': [
        {
          'name': f'bucket-{number}',
          'csi': {
            'driver': 'gcsfuse.csi.storage.gke.io',
            'volumeAttributes': {
              'bucketName': bucket,
              'mountOptions': 'implicit-dirs',
              'hostNetworkPodKSA': 'true',
            },
          },
        }
        for number, bucket in enumerate(unit.buckets)
      ],
    },
  }


def command(unit: WorkUnit, cluster: Cluster) -> list[str]:
  """No shell: the program gets SIGTERM and its exit code is the container's.

  Kubernetes Engine tells the pods of several slices of each other, afresh at each
  restart; where there is one slice, what an image may have kept is taken away.
  """
  scrubbed = [f'--unset={name}' for name in STALE] if cluster.num_slices == 1 else []
  variables = [f'{name}={value}' for name, value in unit.env.items()]
  return ['env', *scrubbed, *variables, 'python', *unit.argv]


def xpk(unit: WorkUnit, cluster: Cluster) -> str:
  """The command for a cluster that xpk made; it fills in the cluster's name.

  xpk restarts on exit codes 42 and 127 to 255 by itself.
  """
  tpu = cluster.tpu
  device = tpu.accelerator_type or f'{tpu.generation.prefix}-{tpu.topology}'
  argv = [
    *('xpk', 'workload', 'create'),
    f'--workload={unit.name}',
    f'--tpu-type={device}',
    f'--num-slices={cluster.num_slices}',
    f'--docker-image={cluster.image}',
    f'--max-restarts={cluster.max_restarts}',
    f'--termination-grace-period-seconds={GRACE_SECONDS}',
    *(f'--storage={bucket}' for bucket in unit.buckets),
    *(['--spot'] if cluster.spot else []),
    # exec, so that SIGTERM reaches the program and not a shell around it.
    '--command=' + quoting.kubernetes('exec ' + quoting.line(command(unit, cluster))),
  ]
  return quoting.line(argv) + ' --cluster="$CLUSTER"'


def _comment(unit: WorkUnit, cluster: Cluster) -> str:
  tpu = cluster.tpu
  pools = (
    'a node pool' if cluster.num_slices == 1 else f'{cluster.num_slices} node pools'
  )
  lines = [
    f'Needs JobSet and {pools}: {hosts(tpu)} x {machine_type(tpu)}, {tpu.topology}.',
    'Buckets need the Cloud Storage FUSE CSI driver, and access by the pods.',
    'The same through xpk, with each bucket attached as a storage of its name:',
    f'  {xpk(unit, cluster)}',
  ]
  return ''.join(f'# {line}\n' for line in lines)
