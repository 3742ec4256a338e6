"""Arrays of .npz files as memory maps: the same numbers as NumPy reads."""

import zipfile

import numpy as np
import pytest

from lossbench.arrays import files, mapping
from lossbench.arrays.files import ArrayFile


def _arrays():
  rng = np.random.default_rng(0)
  values = rng.normal(size=(50, 3, 4))
  return {
    'float64': values,
    'float16': values.astype(np.float16),
    'integers': rng.integers(9, size=(50, 2)),
    'fortran': np.asfortranarray(values[:, 0]),
    'layer/conv1.0': values.astype('>f4'),
  }


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_arrays_are_those_that_were_saved(save, tmp_path):
  arrays = _arrays()
  save(tmp_path / 'x.npz', **arrays)
  for name, values in arrays.items():
    found = mapping.map_array(tmp_path / 'x.npz', name)
    np.testing.assert_array_equal(found, values)
    assert found.dtype == values.dtype
    assert isinstance(found.base, np.memmap)
    assert not found.flags.writeable


def test_rows_are_read_in_an_order_and_in_float32(tmp_path):
  np.savez(tmp_path / 'x.npz', x=_arrays()['float64'])
  values = mapping.map_array(tmp_path / 'x.npz', 'x')
  order = np.random.default_rng(1).permutation(50)[:20]
  rows = mapping.Rows(values, order)
  assert len(rows) == 20
  for index in (0, slice(3, 9), slice(None)):
    assert rows[index].dtype == np.float32
    np.testing.assert_array_equal(
      rows[index], values[order][index].astype(np.float32)
    )


def test_numbers_are_checked_in_pieces(tmp_path, monkeypatch):
  monkeypatch.setattr(files, '_CHECKED', 24)  # two rows of twelve
  values = _arrays()['float64']
  values[[7, 30, 31], 1, 2] = np.nan, np.inf, -np.inf
  np.savez(tmp_path / 'x.npz', x=values)
  with pytest.raises(ValueError, match='in 3 of 50 rows, the first is row 7'):
    ArrayFile(tmp_path / 'x.npz').mapped('x', '[examples, ...]')
  values[7] = 0
  values[30:32, 1, 2] = -np.inf
  np.savez(tmp_path / 'x.npz', x=values)
  ArrayFile(tmp_path / 'x.npz').mapped(
    'x', '[examples, ...]', allow_negative_infinity=True
  )


def _flip(content):
  middle = len(content) // 2
  return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_damage_is_found_before_anything_is_used(tmp_path):
  path = tmp_path / 'x.npz'
  for save in (np.savez, np.savez_compressed):
    save(path, x=np.random.default_rng(0).normal(size=(100, 5)))
    path.write_bytes(_flip(path.read_bytes()))
    with pytest.raises(ValueError, match=r'x\.npz: x is damaged'):
      ArrayFile(path).mapped('x', '[examples, ...]')


def test_what_is_no_array_of_numbers_is_refused(tmp_path):
  path = tmp_path / 'x.npz'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('text.npy', b'no array')
    with archive.open('short.npy', 'w') as file:
      np.lib.format.write_array_header_1_0(
        file, {'descr': '<f4', 'fortran_order': False, 'shape': (9, 9)}
      )
      file.write(b'\0' * 100)
    with archive.open('objects.npy', 'w') as file:
      np.lib.format.write_array(file, np.array([{}]), allow_pickle=True)
  found = ArrayFile(path)
  for name, text in (
    ('text', 'text is damaged'),
    ('short', r'short is damaged: .* bytes are not float32 \(9, 9\)'),
    ('objects', 'objects holds Python objects, a pickle'),
    ('none', "has no array 'none'. It has: text, short, objects"),
  ):
    with pytest.raises(ValueError, match=text):
      found.mapped(name, '[examples, columns]')
