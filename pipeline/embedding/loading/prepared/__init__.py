"""Prepared models: converted once for OpenVINO in a process of its own, kept in a folder, found and checked at a start.

Only the conversion imports torch.
"""
