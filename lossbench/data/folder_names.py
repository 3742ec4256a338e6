"""Names of data sets that are folders of images: 'folder:/data/pets'.

No TensorFlow and no look at a disk: configurations are checked with them.

    folder:PATH[#MAP]   PATH/<split>/<class>/*, or PATH/<class>/* to test on
    objectnet:PATH      ObjectNet as it is unpacked, with images/ and mappings/
    imagenet_c:PATH     PATH/<corruption>/<severity>/<wnid>/*, the files of the
                        authors of ImageNet-C: a family of data sets

MAP is a JSON file, folder -> class or classes of a run, for folders that are
not named as the run's classes are.
"""

from typing import NamedTuple

KINDS = ('folder', 'objectnet')
FAMILY = 'imagenet_c'


class FolderName(NamedTuple):
  """A data set in folders.

  Attributes:
    kind: of `KINDS`.
    path: of the folder.
    class_map: path of a JSON file, or ''.
  """

  kind: str
  path: str
  class_map: str


def parse_folder(name: str) -> FolderName | None:
  """What 'folder:PATH#MAP' names; None of any other name."""
  kind, colon, rest = name.partition(':')
  path, _, class_map = rest.partition('#')
  if not colon or kind not in KINDS or not path or '\n' in name:
    return None
  return FolderName(kind, path, class_map)


def parse_family(name: str) -> str | None:
  """The PATH of 'imagenet_c:PATH'; None of any other name."""
  kind, _, path = name.partition(':')
  return path if kind == FAMILY and path else None


def split_target(text: str) -> tuple[str, str]:
  """'DATASET:SPLIT' in two, of which the second may be ''.

  Colons before the last '/' belong to the data set: 'folder:gs://data/pets'.
  """
  if not parse_folder(text):
    dataset, _, split = text.partition(':')
    return dataset, split
  kind, _, path = text.partition(':')
  above, slash, last = path.rpartition('/')
  last, _, split = last.partition(':')
  return f'{kind}:{above}{slash}{last}', split
