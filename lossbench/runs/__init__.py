"""Run directories: what lies where, and what may be trusted."""
