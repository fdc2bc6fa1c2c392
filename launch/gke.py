# SPDX-License-Identifier: Apache-2.0
"""Render a work unit as a Kubernetes JobSet, and as the equivalent xpk command.

Each slice is a Job with one pod per host, on a node pool of its own; the JobSet
restarts all slices together. Sources: jobset.sigs.k8s.io (v1alpha2); xpk 1.16;
docs.cloud.google.com/kubernetes-engine/docs/how-to/tpu-multislice.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import yaml

from acl_jax.tpu.slices import Slice
from launch import quoting
from launch.tpus import chips_per_host, cloud_names, machine_type, num_hosts
from launch.work_units import MULTISLICE_VARIABLES, RESTART_CODES, WorkUnit

GRACE_SECONDS = 300  # to save a checkpoint; Spot machines get less
_CONTAINER_NAME = 'main'


@dataclasses.dataclass(frozen=True)
class Cluster:
  """The nodes to use, and the image they run; its working folder is the repository."""

  tpu: Slice
  num_slices: int
  image: str
  spot: bool
  max_restarts: int


def check_cluster(cluster: Cluster) -> None:
  """Raise ValueError if no node pool offers such slices."""
  tpu = cluster.tpu
  if cloud_names(tpu).machine is None:
    raise ValueError(f'--tpu: Kubernetes Engine does not offer {tpu.generation.name}')
  if cluster.num_slices > 1 and num_hosts(tpu) == 1:
    raise ValueError(
      f'--num_slices={cluster.num_slices}: {tpu.topology} is a single-host slice, which'
      ' cannot be combined with others; use a larger --tpu'
    )


def render_manifests(units: Sequence[WorkUnit], cluster: Cluster) -> str:
  """Return YAML for `kubectl apply`; comments list what the cluster must have."""
  check_cluster(cluster)
  return ''.join(
    f'---\n{_manifest_comment(unit, cluster)}'
    + yaml.safe_dump(jobset(unit, cluster), sort_keys=False, width=4096)
    for unit in units
  )


def jobset(unit: WorkUnit, cluster: Cluster) -> dict[str, Any]:
  """Return the JobSet; an error fails it, any other end of a pod restarts it."""
  job = {
    'parallelism': num_hosts(cluster.tpu),
    'completions': num_hosts(cluster.tpu),
    'completionMode': 'Indexed',
    'backoffLimit': 0,
    'podFailurePolicy': {
      'rules': [
        # The exit code of an evicted pod does not matter.
        {
          'action': 'Count',
          'onPodConditions': [{'type': 'DisruptionTarget', 'status': 'True'}],
        },
        {
          'action': 'FailJob',
          'onExitCodes': {
            'containerName': _CONTAINER_NAME,
            'operator': 'NotIn',
            'values': sorted(RESTART_CODES),
          },
        },
      ]
    },
    'template': _pod_template(unit, cluster),
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


def _pod_template(unit: WorkUnit, cluster: Cluster) -> dict[str, Any]:
  tpu, command = cluster.tpu, container_command(unit, cluster)
  selector = {
    'cloud.google.com/gke-tpu-accelerator': cloud_names(tpu).accelerator,
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
      'hostNetwork': True,  # full bandwidth between slices
      'dnsPolicy': 'ClusterFirstWithHostNet',
      'terminationGracePeriodSeconds': GRACE_SECONDS,
      'nodeSelector': selector,
      'tolerations': tolerations,
      'containers': [
        {
          'name': _CONTAINER_NAME,
          'image': cluster.image,
          'command': list(map(quoting.escape_kubernetes, command)),
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


def container_command(unit: WorkUnit, cluster: Cluster) -> list[str]:
  """Return the container's command.

  There is no shell, so the program gets SIGTERM and its exit code is the container's.
  With several slices, Kubernetes Engine sets the multislice variables at every restart;
  with one slice, any left in the image are unset.
  """
  unset = []
  if cluster.num_slices == 1:
    unset = [f'--unset={name}' for name in MULTISLICE_VARIABLES]
  variables = [f'{name}={value}' for name, value in unit.env.items()]
  return ['env', *unset, *variables, 'python', *unit.argv]


def xpk_command(unit: WorkUnit, cluster: Cluster) -> str:
  """Return the command for a cluster created by xpk, whose name is in $CLUSTER.

  xpk itself restarts on exit codes 42 and 127 to 255.
  """
  tpu = cluster.tpu
  device = tpu.accelerator_type or f'{tpu.generation.prefix}-{tpu.topology}'
  # exec: SIGTERM must reach the program, not the shell.
  command = 'exec ' + quoting.command_line(container_command(unit, cluster))
  argv = [
    'xpk',
    'workload',
    'create',
    f'--workload={unit.name}',
    f'--tpu-type={device}',
    f'--num-slices={cluster.num_slices}',
    f'--docker-image={cluster.image}',
    f'--max-restarts={cluster.max_restarts}',
    f'--termination-grace-period-seconds={GRACE_SECONDS}',
    *(f'--storage={bucket}' for bucket in unit.buckets),
    *(['--spot'] if cluster.spot else []),
    f'--command={quoting.escape_kubernetes(command)}',
  ]
  return quoting.command_line(argv) + ' --cluster="$CLUSTER"'


def _manifest_comment(unit: WorkUnit, cluster: Cluster) -> str:
  tpu = cluster.tpu
  pools = '1 node pool'
  if cluster.num_slices > 1:
    pools = f'{cluster.num_slices} node pools'
  machines = f'{num_hosts(tpu)} x {machine_type(tpu)}'
  lines = [
    f'Requires JobSet and {pools} of {machines}, topology {tpu.topology}.',
    'Buckets require the Cloud Storage FUSE CSI driver, and access for the pods.',
    'Equivalent xpk command; attach each bucket as a storage of the same name:',
    f'  {xpk_command(unit, cluster)}',
  ]
  return ''.join(f'# {line}\n' for line in lines)
