# SPDX-License-Identifier: Apache-2.0
"""The device mesh, and how every array is sharded over it."""
