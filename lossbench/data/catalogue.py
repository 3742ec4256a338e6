"""What lossbench must know of data sets beyond what TFDS tells.

To train on: digits, pairs of them, CIFAR and ImageNet; to transfer to: the sets of
the paper that TFDS has (it has no Birdsnap; `caltech_birds2011` is another set of
birds); and for runs on a data set the others that they are evaluated on.
"""

import dataclasses

from lossbench.data import folder_names
from lossbench.data.severities import NUM_SEVERITIES, SEVERITIES
from lossbench.names import did_you_mean


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
  """A data set by the name lossbench knows it by.

  Attributes:
    tfds_name: of the TFDS builder, with its configuration.
    test_split: split that final numbers are reported on.
    train_split: what a classifier on fixed features is trained on.
    offline: TFDS can make it without a download, so we do when it is missing.
    manual: what must be fetched by hand before TFDS can prepare it, or ''.
    needs: what else TFDS needs to prepare it, or ''.
    made_of: the data set in the same directory that `lossbench.prepare` makes it
      of, or ''.
    label_feature: name of the feature that holds the class id.
    num_used_classes: how many of the label's classes occur, 0 for all.
    real_labels: has the labels of Beyer et al. 2020 in 'real_label'.
    cropped: its images are stored as the central crop that models look at.
    mean_class_accuracy: the field reports the mean over classes of their
      accuracies (Kornblith et al. 2019, table 3).
  """

  tfds_name: str
  test_split: str = 'test'
  train_split: str = 'train'
  offline: bool = False
  manual: str = ''
  needs: str = ''
  made_of: str = ''
  label_feature: str = 'label'
  num_used_classes: int = 0
  real_labels: bool = False
  cropped: bool = False
  mean_class_accuracy: bool = False

  @property
  def main_metric(self) -> str:
    """Name of the measure of transfer that the literature reports."""
    by_class = self.mean_class_accuracy
    return 'mean_class_accuracy' if by_class else 'top1_accuracy'


@dataclasses.dataclass(frozen=True)
class OodSet:
  """A data set that runs on another one are evaluated on.

  Attributes:
    name: of the data set.
    family: the corruptions that are averaged with it, or ''.
    shifted: its labels are the run's own classes; else it only serves to be
      told from the run's data.
    folder: the name of a folder that is read in its place, or ''.
  """

  name: str
  family: str = ''
  shifted: bool = True
  folder: str = ''


_IMAGENET_VAL = 'ILSVRC2012_img_val.tar (image-net.org)'
# The fifteen of ImageNet-C; TFDS also has its four extra ones.
_CORRUPTIONS = (
  'gaussian_noise',
  'shot_noise',
  'impulse_noise',
  'defocus_blur',
  'glass_blur',
  'motion_blur',
  'zoom_blur',
  'snow',
  'frost',
  'fog',
  'brightness',
  'contrast',
  'elastic_transform',
  'pixelate',
  'jpeg_compression',
)
# What TFDS calls them in CIFAR-10-C.
_CIFAR_NAMES = {
  'glass_blur': 'frosted_glass_blur',
  'elastic_transform': 'elastic',
}

DATASETS = {
  'digits': DatasetSpec('digits', offline=True),
  'digits_low': DatasetSpec('digits_low', offline=True),
  'digits_high': DatasetSpec('digits_high', offline=True),
  **{
    name: DatasetSpec(name, offline=True)
    for name in (
      'digit_pairs',
      'digit_pairs_low',
      'digit_pairs_high',
      'digit_pairs_tens',
      'digit_pairs_units',
      'digit_pairs_sum',
    )
  },
  'cifar10': DatasetSpec('cifar10'),
  'cifar10_1_v4': DatasetSpec('cifar10_1/v4'),
  'cifar10_1_v6': DatasetSpec('cifar10_1/v6'),
  'cifar100': DatasetSpec('cifar100'),
  # TFDS calls the 50,000 images that everybody tests on 'validation'.
  'imagenet2012': DatasetSpec(
    'imagenet2012',
    test_split='validation',
    manual='ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (image-net.org)',
  ),
  'imagenet2012_real': DatasetSpec(
    'imagenet2012_real',
    test_split='validation',
    manual=_IMAGENET_VAL,
    label_feature='original_label',
    real_labels=True,
  ),
  'imagenet_v2_matched_frequency': DatasetSpec('imagenet_v2/matched-frequency'),
  'imagenet_v2_threshold_0_7': DatasetSpec('imagenet_v2/threshold-0.7'),
  'imagenet_v2_topimages': DatasetSpec('imagenet_v2/topimages'),
  'imagenet_a': DatasetSpec('imagenet_a', num_used_classes=200),
  'imagenet_r': DatasetSpec('imagenet_r', num_used_classes=200),
  'imagenet_sketch': DatasetSpec('imagenet_sketch'),
  'caltech101': DatasetSpec('caltech101', mean_class_accuracy=True),
  'caltech_birds2011': DatasetSpec('caltech_birds2011'),
  'cars196': DatasetSpec('cars196'),
  'food101': DatasetSpec('food101', test_split='validation'),
  # Trained on both of its small splits, as in Kornblith et al. 2019.
  'oxford_flowers102': DatasetSpec(
    'oxford_flowers102',
    train_split='train+validation',
    mean_class_accuracy=True,
  ),
  'oxford_iiit_pet': DatasetSpec('oxford_iiit_pet', mean_class_accuracy=True),
  # The first of the ten published partitions.
  'sun397': DatasetSpec('sun397/standard-part1-120k'),
  'dtd': DatasetSpec('dtd'),
  'places365_small': DatasetSpec('places365_small', test_split='validation'),
  'svhn_cropped': DatasetSpec('svhn_cropped'),
}

for _severity in range(1, NUM_SEVERITIES + 1):
  for _name in _CORRUPTIONS:
    DATASETS[f'imagenet_c_{_name}_{_severity}'] = DatasetSpec(
      f'imagenet2012_corrupted/{_name}_{_severity}',
      test_split='validation',
      manual=_IMAGENET_VAL,
      needs='opencv-python, scikit-image and ImageMagick',
      cropped=True,
    )
    DATASETS[f'cifar10_c_{_name}_{_severity}'] = DatasetSpec(
      f'cifar10_corrupted/{_CIFAR_NAMES.get(_name, _name)}_{_severity}'
    )
  for _name in SEVERITIES:
    DATASETS[f'cifar10_c8_{_name}_{_severity}'] = DatasetSpec(
      f'cifar10_c8/{_name}_{_severity}', made_of='cifar10'
    )
    for _family_name in ('digits_c', 'digit_pairs_c', 'digit_pairs_low_c'):
      DATASETS[f'{_family_name}_{_name}_{_severity}'] = DatasetSpec(
        f'{_family_name}/{_name}_{_severity}', offline=True
      )


def _family(name, corruptions):
  return [
    OodSet(f'{name}_{corruption}_{severity}', family=name)
    for corruption in corruptions
    for severity in range(1, NUM_SEVERITIES + 1)
  ]


def _unrelated(*names):
  return [OodSet(name, shifted=False) for name in names]


OOD_SUITES = {
  'digits': tuple(_family('digits_c', SEVERITIES)),
  'digits_low': tuple(_unrelated('digits_high')),
  'digit_pairs': tuple(_family('digit_pairs_c', SEVERITIES)),
  'digit_pairs_low': (
    *_family('digit_pairs_low_c', SEVERITIES),
    *_unrelated('digit_pairs_high'),
  ),
  'cifar10': (
    OodSet('cifar10_1_v4'),
    OodSet('cifar10_1_v6'),
    *_family('cifar10_c', _CORRUPTIONS),
    *_family('cifar10_c8', SEVERITIES),
    *_unrelated('cifar100', 'svhn_cropped'),
  ),
  'cifar100': tuple(_unrelated('cifar10', 'svhn_cropped')),
  'imagenet2012': (
    OodSet('imagenet_v2_matched_frequency'),
    OodSet('imagenet_v2_threshold_0_7'),
    OodSet('imagenet_v2_topimages'),
    OodSet('imagenet_a'),
    OodSet('imagenet_r'),
    OodSet('imagenet_sketch'),
    OodSet('imagenet2012_real'),
    *_family('imagenet_c', _CORRUPTIONS),
    *_unrelated('dtd', 'places365_small'),
  ),
}


def known_datasets() -> tuple[str, ...]:
  """The names of all data sets, sorted; corruptions one by one."""
  return tuple(sorted(DATASETS))


def get_dataset_spec(name: str) -> DatasetSpec:
  """Looks a data set up; an unknown name raises ValueError with the known.

  Of images in folders all is as `DatasetSpec` has it by default.
  """
  if name in DATASETS:
    return DATASETS[name]
  if folder_names.parse_folder(name):
    return DatasetSpec(name)
  if folder_names.parse_family(name):
    raise ValueError(
      f'{name!r} is a family of {len(named_ood_sets(name))} data sets, for '
      '--ood_set of lossbench.evaluate. Name one: '
      'folder:PATH/<corruption>/<severity>.'
    )
  hint = did_you_mean(name, DATASETS)
  families = {s.family for suite in OOD_SUITES.values() for s in suite}
  known = [
    known_name
    for known_name in known_datasets()
    if not any(family and known_name.startswith(family) for family in families)
  ]
  raise ValueError(
    f'Unknown dataset {name!r}. Known: {", ".join(known)}, and the corruptions '
    f'{", ".join(f"{f}_<corruption>_<severity>" for f in sorted(families - {""}))}'
    f'; and images in folders, folder:PATH. {hint}'.rstrip()
  )


def members_of(name: str) -> tuple[str, ...]:
  """The data sets of a family of corruptions; of any other name, that one.

  Raises:
    ValueError: if there is neither a family nor a data set of that name.
  """
  members = tuple(
    ood_set.name
    for suite in OOD_SUITES.values()
    for ood_set in suite
    if ood_set.family == name
  )
  if not members:
    get_dataset_spec(name)
  return members or (name,)


def family_of(name: str) -> str:
  """The family of corruptions that a data set is of, or ''."""
  for suite in OOD_SUITES.values():
    for ood_set in suite:
      if ood_set.name == name:
        return ood_set.family
  return ''


def ood_suite(dataset: str) -> tuple[OodSet, ...]:
  """What runs on a data set are evaluated on beside its test split."""
  return OOD_SUITES.get(dataset, ())


def named_ood_sets(name: str) -> tuple[OodSet, ...]:
  """The shifted data sets that a name stands for.

  Args:
    name: of a data set or a family, or 'imagenet_c:PATH' for the members of
      ImageNet-C, read from PATH/<corruption>/<severity>.

  Raises:
    ValueError: if it is not known.
  """
  path = folder_names.parse_family(name)
  if path is None:
    members = members_of(name)
    return tuple(OodSet(member, family_of(member)) for member in members)
  return tuple(
    dataclasses.replace(member, folder=f'folder:{path}/{corruption}/{severity}')
    for corruption in _CORRUPTIONS
    for severity in range(1, NUM_SEVERITIES + 1)
    for member in [
      OodSet(
        f'{folder_names.FAMILY}_{corruption}_{severity}',
        family=folder_names.FAMILY,
      )
    ]
  )
