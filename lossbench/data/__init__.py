"""Reading images: all of TensorFlow and TFDS lives in this package.

`device_augment`, `device_data` and `order` are pure JAX and NumPy.
"""
