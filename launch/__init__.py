# SPDX-License-Identifier: Apache-2.0
"""Starts the programs elsewhere: on this machine, on TPU VMs, on Kubernetes."""
