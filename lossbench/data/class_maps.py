"""Which of a run's classes the folders of a data set are."""

import json
from collections.abc import Mapping, Sequence

from lossbench.names import did_you_mean
from lossbench.runtime import storage

# Folder -> the run's class ids; () for a folder that is left out.
ClassMap = Mapping[str, tuple[int, ...]]

_OBJECTNET_FILES = (
  'folder_to_objectnet_label.json',
  'objectnet_to_imagenet_1k.json',
  'pytorch_to_imagenet_2012_id.json',
  'imagenet_to_label_2012_v2',
)
_IMAGENET_CLASSES = 1000


def _read_json(path: storage.Path):
  try:
    value = json.loads(path.read_text())
  except FileNotFoundError as error:
    raise FileNotFoundError(f'There is no class map {path}.') from error
  except ValueError as error:
    raise ValueError(f'{path} is not valid JSON: {error}') from error
  if not isinstance(value, dict):
    raise ValueError(
      f'{path} holds no JSON object of folder -> class, but a '
      f'{type(value).__name__}.'
    )
  return value


def by_name(folders: Sequence[str], class_names: Sequence[str]) -> ClassMap:
  """Folders that bear the names of classes.

  Args:
    folders: names of class folders.
    class_names: of the run, in the order of its labels.

  Raises:
    ValueError: if a folder is not named as a class is.
  """
  ids = {name: index for index, name in enumerate(class_names)}
  for folder in folders:
    if folder not in ids:
      hint = did_you_mean(folder, ids)
      raise ValueError(
        f'Folder {folder!r} is none of the {len(ids)} classes of the run, such '
        f'as {class_names[0]!r}. {hint + " " if hint else ""}Name a class map: '
        'folder:PATH#MAP.json.'
      )
  return {folder: (ids[folder],) for folder in folders}


def read_class_map(
  path: str, folders: Sequence[str], class_names: Sequence[str]
) -> ClassMap:
  """What a JSON file says: folder -> class, a list of classes, or null.

  A class is its name or its id; null or [] leaves the folder out.

  Args:
    path: of the file.
    folders: names of class folders.
    class_names: of the run, in the order of its labels.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it says nothing of a folder, or names no class of the run.
  """
  content = _read_json(storage.as_path(path))
  ids = {name: index for index, name in enumerate(class_names)}

  def to_id(folder, label):
    is_id = isinstance(label, int) and not isinstance(label, bool)
    if is_id and 0 <= label < len(class_names):
      return label
    if isinstance(label, str) and label in ids:
      return ids[label]
    hint = did_you_mean(label, ids) if isinstance(label, str) else ''
    raise ValueError(
      f'Class map {path} maps folder {folder!r} to {label!r}, which is neither a '
      f'class of the run, such as {class_names[0]!r}, nor a whole number in [0, '
      f'{len(class_names)}). {hint}'.rstrip()
    )

  found = {}
  for folder in folders:
    if folder not in content:
      raise ValueError(
        f'Class map {path} has no entry of folder {folder!r}. Add one; null '
        'leaves the folder out.'
      )
    labels = content[folder]
    labels = labels if isinstance(labels, list) else [labels]
    found[folder] = tuple(to_id(folder, x) for x in labels if x is not None)
  return found


def read_objectnet_map(
  directory: storage.Path, folders: Sequence[str], class_names: Sequence[str]
) -> ClassMap:
  """The classes that ObjectNet shares with ImageNet, by the files it ships.

  Barbu et al. 2019: 113 of its 313 classes are, each, one or several of
  ImageNet's; the other folders are left out.

  Args:
    directory: 'mappings' of objectnet-1.0.
    folders: names of its class folders.
    class_names: of the run, which must be ImageNet's 1000 in the usual order.

  Raises:
    FileNotFoundError: if one of the files is not there.
    ValueError: if the run's classes are others, or a file lacks an entry.
  """
  if len(class_names) != _IMAGENET_CLASSES:
    raise ValueError(
      f"ObjectNet's classes are told among ImageNet's {_IMAGENET_CLASSES}; the "
      f'run has {len(class_names)}.'
    )
  labels, synonyms, lines = (
    _read_json(directory / name) for name in _OBJECTNET_FILES[:3]
  )
  try:
    names = (directory / _OBJECTNET_FILES[3]).read_text().splitlines()
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f'There is no {directory / _OBJECTNET_FILES[3]}.'
    ) from error
  try:
    ids = {names[line].strip(): int(index) for index, line in lines.items()}
    found = {}
    for folder in folders:
      shared = synonyms.get(labels[folder], '')
      found[folder] = tuple(ids[n] for n in shared.split('; ') if n)
  except (KeyError, IndexError, TypeError, ValueError) as error:
    raise ValueError(
      f'The class maps in {directory} lack an entry: {error}. Unpack ObjectNet '
      'again.'
    ) from error
  return found
