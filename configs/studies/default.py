"""Every field of a study's configuration, with its meaning.

A study is a set of groups; a group is one recipe with some objectives and
seeds. Any field can be overridden on the command line:
--config.groups.digits_cnn.num_seeds=5.
"""

import ml_collections

from configs import legal

# The paper's nine, in the order of its section 2.
OBJECTIVES = (
  'softmax',
  'label_smoothing',
  'dropout',
  'extra_final_layer_l2',
  'logit_penalty',
  'logit_normalization',
  'cosine_softmax',
  'sigmoid',
  'squared_error',
)

# The grid of Kornblith et al. 2019 (arXiv:1805.08974), whose runs take 20,000
# steps. Weight decays are divided by the learning rate.
FINETUNE_LEARNING_RATES = tuple(10.0 ** (x / 2) for x in range(-8, -1))
FINETUNE_WEIGHT_DECAYS = (0.0, *(10.0 ** (x / 2) for x in range(-12, -5)))
FINETUNE_EPOCHS = 100.0
FINETUNE_BATCH_SIZE = 256

_TEXTS = legal.Several(legal.Text(r'(?s).+', 'a text that is not empty'))
# The legal values of a study's own fields, and of each group's.
STUDY_FIELDS = (
  legal.Field('title', legal.Text('.*', 'one line'), "Give '' for the name."),
  legal.Field('data_dir', legal.PATH, "Give '' for each recipe's."),
)
GROUP_FIELDS = (
  legal.Field(
    'recipe',
    legal.Text(r'[^\0\n]+\.py', "a recipe's file"),
    'Give for example configs/digits_cnn.py.',
  ),
  legal.Field('objectives', _TEXTS, "Give for example ('sigmoid',)."),
  legal.Field('num_seeds', legal.Count('[1, 10000]'), 'Give for example 3.'),
  legal.Field('overrides', _TEXTS, "Give for example ('num_epochs=20',)."),
  legal.Field(
    'variants',
    legal.Several(_TEXTS),
    "Give for example (('num_epochs=20',), ('num_epochs=40',)).",
  ),
  legal.Field(
    'stop_epoch_from', legal.Text('.*', 'one line'), "Give '' for none."
  ),
  legal.Field(
    'import_format',
    legal.Text('.*', 'one line'),
    "Give for example 'loss_functions_transfer', or '' to train.",
  ),
  legal.Field('import_from', legal.PATH, "Give '' to train."),
  legal.Field(
    'import_options',
    _TEXTS,
    "Give for example ('weights=IMAGENET1K_V1',), or () for none.",
  ),
  legal.Field('evaluate', legal.BOOL, 'Give True or False.'),
  legal.Field('ood', legal.BOOL, 'Give True or False.'),
  legal.Field(
    'ood_sets', _TEXTS, "Give for example ('folder:/data/x',), or () for none."
  ),
  legal.Field(
    'num_train_examples',
    legal.Count('[0, 100000000]'),
    'Give for example 50000, or 0 for none.',
  ),
  legal.Field('compare', legal.BOOL, 'Give True or False.'),
  legal.Field('cka', legal.BOOL, 'Give True or False.'),
  legal.Field(
    'finetune', _TEXTS, "Give for example ('oxford_iiit_pet',), or () for none."
  ),
  legal.Field(
    'finetune_learning_rates',
    legal.Several(legal.Number('(0, 1000]')),
    'Give for example (0.001, 0.01).',
  ),
  legal.Field(
    'finetune_weight_decays',
    legal.Several(legal.Number('[0, 1000]')),
    'Give for example (0.0, 0.0001).',
  ),
  legal.Field(
    'finetune_epochs', legal.Number('(0, 1000000]'), 'Give for example 20.'
  ),
  legal.Field(
    'finetune_batch_size', legal.Count('[1, 1000000]'), 'Give for example 256.'
  ),
  legal.Field('transfer', _TEXTS, "Give for example ('digits_high',)."),
)


def get_default_study() -> ml_collections.ConfigDict:
  """A study without groups."""
  config = ml_collections.ConfigDict()
  # Of the report.
  config.title = ''
  # TFDS directory of all runs; '' takes each recipe's.
  config.data_dir = ''
  # Name -> `group`. Names are those of directories and of the report.
  config.groups = ml_collections.ConfigDict()
  return config


def group(recipe: str, **fields) -> ml_collections.ConfigDict:
  """Runs of one recipe: every objective x variant x seed.

  Args:
    recipe: a file, e.g. 'configs/digits_cnn.py', relative to where the study
      is started.
    **fields: that differ from those below.
  """
  config = ml_collections.ConfigDict()
  config.recipe = recipe
  # As after the colon of --config: 'sigmoid', 'softmax+mixup', ...
  config.objectives = OBJECTIVES
  # Seeds 0 to num_seeds - 1.
  config.num_seeds = 3
  # Changes to the recipe, as on the command line: ('num_epochs=20', ...).
  config.overrides = ()
  # Of several variants each gets its own changes besides:
  # (('objective.dropout.keep_prob=0.5',), ('objective.dropout.keep_prob=0.8',)).
  config.variants = ((),)
  # Another group of the study, of runs with a holdout: of each objective these
  # stop at the epoch of its best holdout accuracy, averaged over seeds. Of several
  # variants there the best one's changes are made here too.
  config.stop_epoch_from = ''
  # Runs are not trained but imported: the --format of lossbench.import_checkpoint,
  # and its --source, in which {objective} and {seed} stand for those of each run.
  # --objective and --seed are given where the format asks for them; its other
  # options, as ('weights=IMAGENET1K_V1',), in which the same stands for the same.
  # Recipe and overrides must say what the checkpoint does of model and images; an
  # import that differs says in which fields.
  config.import_format = ''
  config.import_from = ''
  config.import_options = ()
  # Evaluate runs on their test split, and on out-of-distribution sets too.
  config.evaluate = True
  config.ood = True
  # Further data sets, as --ood_set of lossbench.evaluate names them.
  config.ood_sets = ()
  # And on so many images that they were trained on, as the paper measures class
  # separation, spectra and distances: the same random ones for all. 0 for none.
  config.num_train_examples = 50_000
  # Compare all runs of the group, and their layers.
  config.compare = True
  config.cka = True
  # Data sets to transfer to; with ':holdout' or ':<split>' trained on that.
  config.transfer = ()
  # Data sets to fine-tune all weights on, with softmax, from the backbone of every
  # run; and the grid, of which a fifth of train chooses the point that is trained
  # again on all of it.
  config.finetune = ()
  config.finetune_learning_rates = FINETUNE_LEARNING_RATES
  config.finetune_weight_decays = FINETUNE_WEIGHT_DECAYS
  config.finetune_epochs = FINETUNE_EPOCHS
  config.finetune_batch_size = FINETUNE_BATCH_SIZE
  config.update(fields)
  return config


def check_study(config: ml_collections.ConfigDict):
  """Refuses a study with an illegal, unknown or missing field of its own.

  Raises:
    ValueError: one line that names the field, its value and the remedy.
  """
  own = {name: value for name, value in config.items() if name != 'groups'}
  legal.check_table(own, STUDY_FIELDS, flag='--config.')
  for name, fields in config.groups.items():
    legal.check_table(fields, GROUP_FIELDS, flag=f'--config.groups.{name}.')
