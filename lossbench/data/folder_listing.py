"""What lies in a folder of images: splits, classes and files, all named images.

What is not as it should be is refused by name before any image is read. No
TensorFlow: only names are looked at.
"""

import concurrent.futures
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lossbench.runtime import storage

EXTENSIONS = ('.jpg', '.jpeg', '.png')
_SPLIT_NAMES = {
  'train': 'train',
  'val': 'validation',
  'validation': 'validation',
  'test': 'test',
}
_NUM_SHOWN = 3


class Listing(NamedTuple):
  """The images of a data set.

  Attributes:
    classes: names of the class folders, sorted.
    files: split -> (path from the data set's folder, name of the class folder)
      of every image, sorted.
  """

  classes: tuple[str, ...]
  files: Mapping[str, Sequence[tuple[str, str]]]


def _entries(path: storage.Path) -> tuple[list[str], list[str]]:
  """Names of (folders, files) in a folder, sorted; none that begins with '.'."""
  folders, files = [], []
  if storage.is_remote(path):
    for entry in path.iterdir():
      (folders if entry.is_dir() else files).append(entry.name)
  else:
    with os.scandir(path) as entries:
      for entry in entries:
        (folders if entry.is_dir() else files).append(entry.name)
  return tuple(
    sorted(name for name in names if not name.startswith('.'))
    for names in (folders, files)
  )


def _is_image(name: str) -> bool:
  return name.lower().endswith(EXTENSIONS)


def _class_files(path: storage.Path) -> list[str]:
  """Names of the images of a class, of which there must be one."""
  folders, files = _entries(path)
  if folders:
    raise ValueError(
      f'Class folder {path} holds another folder, {folders[0]!r}. Expected: '
      'images, in PATH/<split>/<class>/ or PATH/<class>/.'
    )
  others = [name for name in files if not _is_image(name)]
  if others:
    shown = ', '.join(map(repr, others[:_NUM_SHOWN]))
    more = ', ...' if len(others) > _NUM_SHOWN else ''
    raise ValueError(
      f'Class folder {path} holds {len(others)} file(s) that are no images '
      f'({", ".join(EXTENSIONS)}): {shown}{more}. Convert or remove them.'
    )
  if not files:
    raise ValueError(
      f'Class folder {path} has no images ({", ".join(EXTENSIONS)}). Remove it, '
      'or fill it.'
    )
  return files


def _class_folders(where: storage.Path) -> list[str]:
  """Names of the class folders in a folder, of which there must be one."""
  classes, stray = _entries(where)
  images = [name for name in stray if _is_image(name)]
  if images:
    raise ValueError(
      f'{where} holds images outside class folders, such as {images[0]!r}. '
      'Expected: PATH/<split>/<class>/*, or PATH/<class>/* to test on.'
    )
  if not classes:
    raise ValueError(
      f'{where} has no class folders. Expected: PATH/<split>/<class>/*, or '
      'PATH/<class>/* to test on.'
    )
  return classes


def _split_files(root, prefix: str) -> tuple[list[str], list]:
  """(classes, files) below one folder of class folders.

  Args:
    root: of the data set.
    prefix: 'train/', or '' where it has no splits.
  """
  where = root / prefix if prefix else root
  classes = _class_folders(where)
  # A thousand folders in a bucket are listed side by side.
  with concurrent.futures.ThreadPoolExecutor(max_workers=32) as executor:
    names = executor.map(_class_files, [where / name for name in classes])
    files = [
      (f'{prefix}{of_class}/{name}', of_class)
      for of_class, of_names in zip(classes, names, strict=True)
      for name in of_names
    ]
  return classes, files


def _find_splits(root: storage.Path) -> dict[str, str]:
  """Split -> its folder; {} where the folders are the classes themselves.

  A class may be named 'train': it holds images, not folders.
  """
  found = {}
  for folder in _entries(root)[0]:
    if folder not in _SPLIT_NAMES:
      continue
    inner, files = _entries(root / folder)
    if inner or not any(map(_is_image, files)):
      split = _SPLIT_NAMES[folder]
      if split in found:
        raise ValueError(
          f'{root} has both {found[split]!r} and {folder!r}. Remove one.'
        )
      found[split] = folder
  if 'test' not in found and 'validation' in found:
    found['test'] = found.pop('validation')
  return found


def list_classes(root: storage.Path) -> list[str]:
  """The names of the class folders of split 'test', sorted, as `list_images`
  finds them; does not look into them.

  Args:
    root: the data set's folder, which is there.

  Raises:
    ValueError: if it has none.
  """
  folder = _find_splits(root).get('test')
  return _class_folders(root / folder if folder else root)


def list_images(root: storage.Path) -> Listing:
  """Lists root/<split>/<class>/*, or root/<class>/* as split 'test'.

  Splits are train/, val/ or validation/, and test/; without the last one,
  validation images are called 'test', as the split that is reported on.

  Args:
    root: the data set's folder.

  Raises:
    FileNotFoundError: if there is no such folder.
    ValueError: if it has no images, or classes differ between splits.
  """
  if not root.is_dir():
    raise FileNotFoundError(
      f'There is no folder {root}. Give the absolute path of a folder of '
      'images, or one from --config.data_dir (--data_dir).'
    )
  splits = _find_splits(root)
  if not splits:
    classes, files = _split_files(root, '')
    return Listing(tuple(classes), {'test': files})
  listed = {
    split: _split_files(root, f'{folder}/')
    for split, folder in sorted(splits.items())
  }
  (first, (classes, _)), *others = listed.items()
  for split, (other, _) in others:
    differing = sorted(set(classes) ^ set(other))
    if differing:
      name = differing[0]
      there, lacking = (first, split) if name in classes else (split, first)
      raise ValueError(
        f'The classes of {root} differ between splits: {len(differing)} '
        f'do, such as {name!r}, which {splits[there]!r} has and '
        f'{splits[lacking]!r} lacks.'
      )
  return Listing(
    tuple(classes), {split: files for split, (_, files) in listed.items()}
  )
