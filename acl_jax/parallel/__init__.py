# SPDX-License-Identifier: Apache-2.0
"""One program on many devices: the mesh, and who holds what of every array."""
