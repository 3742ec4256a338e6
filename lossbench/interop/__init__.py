"""Checkpoints of other projects as runs.

`formats` names what can be read; a module a format opens its files and says where
each array of ours comes from, `matching` takes them, all or none, and `importing`
makes the run directory.
"""
