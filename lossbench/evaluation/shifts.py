"""Evaluation on the out-of-distribution sets of a run's data set."""

import collections
from collections.abc import Sequence

import numpy as np

from lossbench.data import catalogue, class_maps, folder_listing
from lossbench.data.folder_names import parse_folder
from lossbench.evaluation import per_example, scoring
from lossbench.evaluation.files import write_metrics
from lossbench.evaluation.outputs import RunOutputs
from lossbench.runs.records import Record, create_record
from lossbench.runtime.progress import create_printer

# Metrics of a corruption family that are averaged over its members.
_FAMILY_METRICS = (
  'top1_accuracy',
  'top5_accuracy',
  'nll',
  'ece',
  'brier_score',
)
# Those that tell its members from the run's own test split.
_FAMILY_DETECTION = (
  'max_probability_auroc',
  'max_probability_fpr_at_95_tpr',
  'energy_auroc',
  'energy_fpr_at_95_tpr',
)


def find_ood_sets(
  outputs: RunOutputs, names: Sequence[str], *, data_dir: str | None
) -> list[catalogue.OodSet]:
  """What names stand for, of data sets that a run is to be evaluated on.

  Args:
    outputs: of the run.
    names: of data sets, folders and families.
    data_dir: TFDS directory; None takes the run's.

  Raises:
    ValueError: if a name is unknown, or its labels are not the run's classes.
    FileNotFoundError: if a data set is not there, or nothing of a family.
  """
  from lossbench.data import datasets

  config = outputs.config
  data_dir = config.data_dir if data_dir is None else data_dir
  # What the suite says of its sets holds, that some are only told apart too.
  of_suite = {s.name: s for s in catalogue.ood_suite(config.dataset)}
  found = []
  for name in names:
    if name == config.dataset:
      raise ValueError(
        f'--ood_set={name} is the data set of the run itself, which is evaluated '
        'anyway. Leave it out.'
      )
    members = [
      member if member.folder else of_suite.get(member.name, member)
      for member in catalogue.named_ood_sets(name)
    ]
    found += members
    reasons = [
      datasets.not_available(s.folder or s.name, data_dir) for s in members
    ]
    if all(reasons):
      raise FileNotFoundError(f'--ood_set={name} is {reasons[0]}')
    if parse_folder(name):
      builder = outputs.open_dataset(name, own_labels=True)
      outputs.tfds_split(builder, catalogue.get_dataset_spec(name).test_split)
      continue
    there = [s for s, why in zip(members, reasons, strict=True) if not why]
    if members[0].folder:
      _check_class_folders(outputs, name, there, data_dir)
    elif members[0].name not in of_suite:
      of_set = datasets.class_names(there[0].name, data_dir)
      if of_set != outputs.class_names:
        raise ValueError(
          f'--ood_set={name} has {len(of_set)} classes, such as {of_set[0]!r}, '
          f'which are not the {len(outputs.class_names)} of '
          f'{config.dataset!r}, such as {outputs.class_names[0]!r}.'
        )
  return found


def _check_class_folders(outputs, name, members, data_dir):
  """Refuses a family in folders that are not named as the run's classes.

  Their images are listed only when each is evaluated, for they are millions.
  """
  from lossbench.data import folders

  for member in members:
    root = folders.folder_path(parse_folder(member.folder), data_dir)
    try:
      class_maps.by_name(folder_listing.list_classes(root), outputs.class_names)
    except ValueError as error:
      raise ValueError(f'--ood_set={name}, in {root}: {error}') from error


def evaluate_ood(
  outputs: RunOutputs,
  *,
  data_dir: str | None,
  named: Sequence[catalogue.OodSet] = (),
  whole_suite: bool = True,
) -> tuple[dict[str, list[Record]], dict[str, str]]:
  """Predictions on every out-of-distribution set of the run's data set.

  Args:
    outputs: of the run.
    data_dir: TFDS directory; None takes the run's.
    named: of `find_ood_sets`, more of them or others in their place.
    whole_suite: whether all of the suite of the run's data set are meant.

  Returns:
    Name of the data set or corruption family -> its records; and name -> why
    not, of those that are not available.
  """
  from lossbench.data import datasets

  config = outputs.config
  data_dir = config.data_dir if data_dir is None else data_dir
  of_suite = catalogue.ood_suite(config.dataset) if whole_suite else ()
  suite = list({s.name: s for s in (*of_suite, *named)}.values())
  meant = collections.Counter(s.family for s in suite if s.family)
  # Of a few corruptions there is no mean, and that of all is left as it is.
  whole = {f for f, n in meant.items() if n == len(catalogue.members_of(f))}
  missing = {}
  for ood_set in suite:
    reason = datasets.not_available(ood_set.folder or ood_set.name, data_dir)
    if reason:
      missing[ood_set.name] = reason
  results: dict[str, list[Record]] = {}
  families: dict[str, list[tuple[list[Record], per_example.Values]]] = {}
  present = [ood_set for ood_set in suite if ood_set.name not in missing]
  test_split = catalogue.get_dataset_spec(config.dataset).test_split
  if present:
    own = outputs.predictions(config.dataset, test_split).arrays['logits']
    detector = scoring.Detector(outputs.objective, own)
    on_progress = create_printer('out-of-distribution sets', len(present))
  for number, ood_set in enumerate(present, start=1):
    try:
      records, values = _ood_records(outputs, ood_set, detector)
    except FileNotFoundError as error:
      missing[ood_set.name] = f'not available: {error}'
      continue
    if ood_set.family in whole:
      families.setdefault(ood_set.family, []).append((records, values))
    else:
      results[ood_set.name] = records
    on_progress(number)
  for family, members in families.items():
    of_family = [s for s in suite if s.family == family]
    records = _family_records(
      [of_member for of_member, _ in members],
      num_members=len(of_family),
      num_own=len(own),
    )
    split = catalogue.get_dataset_spec(of_family[0].name).test_split
    write_metrics(
      outputs.eval_path(family, split),
      records,
      dataset=family,
      split=split,
      step=outputs.step,
      checkpoint=outputs.fingerprint,
      compute_dtype=outputs.config.compute_dtype,
      objective=config.objective.name,
    )
    _write_family_values(
      outputs, family, split, [values for _, values in members], of_family
    )
    results[family] = records
  return results, missing


def _write_family_values(outputs, family, split, members, of_family):
  """Means over corruptions of every example, where all are of the same ones."""
  ids = [values.pop('id') for values in members]
  if len(members) == len(of_family) and all(
    np.array_equal(ids[0], other) for other in ids
  ):
    values = per_example.mean_of(members)
    per_example.write(
      outputs.eval_path(family, split),
      ids[0],
      {n: v for n, v in values.items() if n in _FAMILY_METRICS},
      step=outputs.step,
      checkpoint=outputs.fingerprint,
    )


def _ood_records(
  outputs, ood_set, detector
) -> tuple[list[Record], per_example.Values]:
  """Records, and values of examples beside their 'id'."""
  from lossbench.data import real_labels

  spec = catalogue.get_dataset_spec(ood_set.name)
  predictions = outputs.predictions(
    ood_set.name,
    spec.test_split,
    own_labels=ood_set.shifted,
    folder=ood_set.folder,
    quiet=True,
  )
  logits, labels = predictions.arrays['logits'], predictions.labels
  records, values = [], {}
  if parse_folder(ood_set.name):
    records, values = _folder_records(outputs, ood_set.name, predictions)
  elif ood_set.shifted:
    scored = scoring.score_predictions(outputs.objective, logits, labels)
    records, values = scored.records, scored.per_example
  if spec.num_used_classes:
    records += scoring.subset_records(
      outputs.objective, logits, labels, num_used_classes=spec.num_used_classes
    )
    values |= per_example.of_subset(logits, labels, spec.num_used_classes)
  if spec.real_labels:
    ids, is_label = real_labels.read_real_labels(
      outputs.open_dataset(ood_set.name), spec.test_split
    )
    if not np.array_equal(ids, predictions.ids):
      raise ValueError(
        f'The ids of {ood_set.name} are not those of its labels: prepare the '
        'data set again.'
      )
    records.append(scoring.real_record(logits, is_label))
    values |= per_example.of_real_labels(logits, is_label)
  records += detector.records(logits)
  write_metrics(
    outputs.eval_path(ood_set.name, spec.test_split),
    records,
    dataset=ood_set.name,
    split=spec.test_split,
    step=outputs.step,
    checkpoint=outputs.fingerprint,
    compute_dtype=outputs.config.compute_dtype,
    objective=outputs.config.objective.name,
  )
  per_example.write(
    outputs.eval_path(ood_set.name, spec.test_split),
    predictions.ids,
    values,
    step=outputs.step,
    checkpoint=outputs.fingerprint,
  )
  return records, {'id': predictions.ids, **values}


def _folder_records(
  outputs, name, predictions
) -> tuple[list[Record], per_example.Values]:
  """Records and values of a folder, by its names of classes or a class map."""
  builder = outputs.open_dataset(name, own_labels=True)
  logits, labels = predictions.arrays['logits'], predictions.labels
  used = builder.used_classes
  if any(len(of_folder) > 1 for of_folder in builder.labels.values()):
    is_label = builder.is_label(predictions.ids)
    values = per_example.of_mapped(logits, is_label, used)
    record = scoring.mapped_record(logits, is_label, used)
    return [record], {record.name: values}
  scored = scoring.score_predictions(outputs.objective, logits, labels)
  records, values = scored.records, scored.per_example
  if len(used) < logits.shape[1]:
    records += scoring.subset_records(
      outputs.objective, logits, labels, num_used_classes=len(used)
    )
    values |= per_example.of_subset(logits, labels, len(used))
  return records, values


def _family_records(
  members: list[list[Record]], *, num_members: int, num_own: int
) -> list[Record]:
  """The mean over all corruptions and severities of a family.

  An incomplete family has no mean: one over other corruptions would look like
  it and be another number.

  Args:
    members: the records of each that was measured.
    num_members: of the whole family.
    num_own: examples of the run's own test split, which count once.
  """
  records = []
  for name in (*_FAMILY_METRICS, *_FAMILY_DETECTION):
    found = [r for records in members for r in records if r.name == name]
    if not found:
      continue
    values = [record.value for record in found]
    value, note = None, f'mean over {num_members} corruptions and severities'
    if len(members) < num_members:
      note = f'not available: {len(members)} of {num_members} corruptions'
    elif None in values:
      note = 'not available: see the corruptions'
    else:
      value = float(np.mean(values))
    n = sum(r.n for r in found)
    if name in _FAMILY_DETECTION:
      n -= (len(found) - 1) * num_own
    records.append(create_record(name, value, n=n, note=note))
  return records
