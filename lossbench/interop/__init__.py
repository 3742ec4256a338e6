"""Checkpoints of other projects as runs, and runs as files of other projects.

`formats` names what can be read; a module a format opens its files and says where
each array of ours comes from, `matching` takes them, all or none, and `importing`
makes the run directory. `torch_names` has torchvision's names for both directions;
`exporting` writes.
"""
