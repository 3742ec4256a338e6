"""The later edition's fine-tuning: all weights of the paper's networks, nothing fixed.

  python -m lossbench.study --config=configs/studies/finetuning.py --workdir=studies/finetuning --config.data_dir=/data/tfds

Of every objective one of the ResNet-50 that the authors published (`released.py`) is
fine-tuned on the eight data sets of Table 3, over the grid of Kornblith et al. 2019:
7 learning rates x 8 weight decays, 57 runs a network and data set, 4,104 in all. Beside
it stand linear and nearest-neighbour transfer of the same networks, for the figure of
all three against class separation. A grid of fewer points:
--config.groups.imagenet_resnet50.finetune_weight_decays='(0.0, 1e-5)'
"""

from configs.studies import paper, released


def get_config():
  config = released.get_config()
  config.title = 'Fine-tuning after nine objectives'
  group = config.groups.imagenet_resnet50
  group.num_seeds = 1
  group.ood = False
  group.compare = False
  group.transfer = paper.TRANSFER
  group.finetune = paper.TRANSFER
  return config
