"""Reports: the tables and figures of a study, from its records alone.

Needs NumPy, SciPy, matplotlib and Jinja2; neither JAX nor TensorFlow.
"""
