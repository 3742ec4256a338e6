"""What does the choice of training objective do to an image classifier?"""

import os

from lossbench.runtime import storage, xla

__version__ = '0.1.0'

# TensorFlow's greetings in C++, one of which ignores the log level. They must be
# silenced before anything imports it, and clu does.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')

xla.choose_cpu_convolutions()
xla.choose_deterministic_gpu_ops()
storage.choose_client_defaults()
