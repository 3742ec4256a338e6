"""Studies: objectives x seeds, from nothing to comparisons.

`plan` expands a configuration into runs, `states` reads from run directories
what is done, `stages` does what is missing, `pool` does it in many processes,
`table` shows it. Nothing but the run directories remembers what was done.
"""
