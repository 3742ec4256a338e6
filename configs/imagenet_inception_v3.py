"""Inception v3 at 299 x 299 on ImageNet (Table B.1 of the paper).

  python main.py --config=configs/imagenet_inception_v3.py:sigmoid --workdir=runs/i3

All as for ResNet-50, with its hyperparameters, bicubic filter and bfloat16; no
auxiliary head. Sigmoid has
the best top-1 accuracy of the paper's objectives, softmax the better top-5.
"""

from configs import imagenet_resnet50

OBJECTIVES = imagenet_resnet50.OBJECTIVES


def get_config(objective: str = 'softmax'):
  config = imagenet_resnet50.get_config(objective)
  config.image_size = 299
  # Zeros beyond the edges count in PyTorch's average pools, not in TensorFlow's.
  config.model = {'name': 'inception_v3', 'count_include_pad': False}
  return config
