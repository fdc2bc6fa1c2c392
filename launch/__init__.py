# SPDX-License-Identifier: Apache-2.0
"""Launch the programs on this machine, on TPU VMs or on Kubernetes."""
