"""CIFAR-10 on a CPU: the paper's objectives on images of 16 x 16 pixels.

  python -m lossbench.prepare --dataset=cifar10_c8 --data_dir=DIR
  python -m lossbench.study --config=configs/studies/cifar10_small.py --workdir=studies/cifar10_small --num_workers=2 --config.data_dir=DIR

Nine objectives x 2 seeds of All-CNN-C at a quarter of its width on 10,000 images, all
of which softmax gets right; corruptions of the test images; transfer to Caltech-101,
linear, by neighbours and by fine-tuning; and relearning of CIFAR-10 from its holdout,
the other 40,000. DIR is a TFDS directory with cifar10 and caltech101 that may be
written to. An hour or two of two cores; killed and started again it goes on.
"""

from configs.studies import default


def get_config():
  config = default.get_default_study()
  config.title = 'Nine objectives on CIFAR-10 at 16 x 16 pixels'
  config.groups.cifar10_small = default.group(
    'configs/cifar10_small.py',
    num_seeds=2,
    num_train_examples=10_000,
    transfer=('caltech101', 'cifar10:holdout'),
    finetune=('caltech101',),
    # For 1,020 images; few points, each a run of its own.
    finetune_learning_rates=(0.1, 10**-0.5, 1.0),
    finetune_weight_decays=(1e-3, 10**-2.5),
    finetune_epochs=20.0,
    finetune_batch_size=128,
  )
  return config
