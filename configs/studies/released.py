"""The paper's ImageNet tables and figures, of its own networks: nothing is trained.

  python -m lossbench.study --config=configs/studies/released.py --workdir=studies/released --config.data_dir=/data/tfds

Imports the 72 ResNet-50 that the authors published, nine objectives x eight seeds,
and measures them as `paper.py` does those that it trains: Tables 2, 3, B.2 and B.3
and Figures 1 to 5. They are read from the authors' bucket, or from a copy:
--config.groups.imagenet_resnet50.import_from=/copy/{objective}/seed{seed}/model.ckpt

They were trained on all of ImageNet, as far as is known, and so the source task is
relearned, IN(50k), from the last 50,046 training images, which they have seen; what
`paper.py` says of images that its networks have not seen is another number.
"""

from configs.studies import default, paper

CHECKPOINTS = 'gs://gresearch/loss_functions_transfer/checkpoints'
# What the authors' networks are, as a change of the recipe.
RELEASED = (
  'num_holdout=0',
  'compute_dtype=float32',
  'eval_pixels=float32',
  'output_layer=released',
)


def get_config():
  config = default.get_default_study()
  config.title = (
    'Why do better loss functions lead to less transferable features?'
  )
  config.groups.imagenet_resnet50 = default.group(
    'configs/imagenet_resnet50.py',
    num_seeds=8,
    overrides=RELEASED,
    import_format='loss_functions_transfer',
    import_from=f'{CHECKPOINTS}/{{objective}}/seed{{seed}}/model.ckpt',
    transfer=(*paper.TRANSFER, 'imagenet2012:train[-50046:]'),
  )
  return config
