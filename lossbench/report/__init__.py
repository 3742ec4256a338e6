"""Reports: the tables and figures of a study, from its records alone.

Needs NumPy, pandas, SciPy and matplotlib; neither JAX nor TensorFlow.
"""
