"""Studies: objectives x seeds, from nothing to comparisons.

`configuration` expands a study's file into a `plan`, `states` reads from run
directories what is done, `stages` does what is missing, `pool` does it in many
processes, `table` shows it. Nothing but the run directories remembers what was done.
"""
