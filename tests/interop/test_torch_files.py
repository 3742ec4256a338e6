"""Files of torch.save are read as torch reads them, and run nothing."""

import argparse
import io
import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from lossbench.interop.tensor_files import find_file, open_tensors
from lossbench.interop.torch_files import read_state_dict


class Attack:
  """What a pickle may ask for: a call of anything."""

  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return os.mkdir, (str(self._path),)


def _archive(path, content, **members):
  """The layout of torch.save, by hand."""
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', content)
    for name, value in members.items():
      archive.writestr(f'archive/{name}', value)
  return path


@pytest.mark.parametrize('layout', ['archive', 'pickles', 'plain'])
def test_no_call_of_a_pickle_is_made(tmp_path, layout):
  path = tmp_path / 'evil.pth'
  content = pickle.dumps({'fc.weight': Attack(tmp_path / 'made')})
  if layout == 'archive':
    _archive(path, content)
  elif layout == 'pickles':
    head = (0x1950A86A20F9469CFC6C, 1001, {})
    path.write_bytes(b''.join(map(pickle.dumps, head)) + content)
  else:
    path.write_bytes(content)
  with pytest.raises(ValueError) as error:
    read_state_dict(path)
  message = str(error.value)
  assert f'{path} is not taken: it asks for posix.mkdir' in message
  assert 'torch.save(model.state_dict(), ...)' in message
  assert '\n' not in message
  assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize(
  ('found', 'words'),
  [
    (argparse.Namespace(a=1), 'it asks for argparse.Namespace'),
    ([1, 2], 'it holds no dictionary of arrays'),
    ({}, 'it holds no dictionary of arrays'),
    ({'epoch': 3}, "its entry 'epoch' is no array"),
    ({'state_dict': {'a': 'b'}, 'epoch': 3}, "its entry 'a' is no array"),
  ],
)
def test_what_is_no_dictionary_of_arrays_is_refused(tmp_path, found, words):
  path = _archive(tmp_path / 'a.pth', pickle.dumps(found))
  with pytest.raises(ValueError, match=words):
    read_state_dict(path)


def _tensor_pickle(shape, strides, offset=0, size=6):
  """A state dictionary of one float32 array, pickled by hand."""
  stream = io.BytesIO()
  # Protocol 0: names of modules as text.
  storage = b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI%d\ntQ" % size
  numbers = b''.join(b'I%d\n' % n for n in shape)
  steps = b''.join(b'I%d\n' % n for n in strides)
  stream.write(
    b"(dS'a'\nctorch._utils\n_rebuild_tensor_v2\n("
    + storage
    + b'I%d\n(' % offset
    + numbers
    + b't('
    + steps
    + b'tI00\nccollections\nOrderedDict\n(tRtRs.'
  )
  return stream.getvalue()


def test_arrays_are_read_without_torch(tmp_path):
  data = np.arange(6, dtype=np.float32).tobytes()
  path = _archive(
    tmp_path / 'a.pth', _tensor_pickle((2, 2), (1, 3), 1), **{'data/0': data}
  )
  found = read_state_dict(path)
  np.testing.assert_array_equal(found['a'], [[1, 4], [2, 5]])
  assert open_tensors(path).shapes == {'a': (2, 2)}


@pytest.mark.parametrize(
  ('shape', 'strides', 'offset', 'words'),
  [
    ((2, 4), (1, 3), 0, 'reaches beyond storage 0'),
    ((2, 2), (1, 3), 3, 'reaches beyond storage 0'),
    ((1000, 1000), (0, 0), 0, 'reaches beyond storage 0'),
    ((2, 2), (-1, 3), 1, 'no proper storage, shape or strides'),
    ((2, 2), (3,), 0, 'no proper storage, shape or strides'),
  ],
)
def test_arrays_stay_in_their_storage(tmp_path, shape, strides, offset, words):
  path = _archive(
    tmp_path / 'a.pth',
    _tensor_pickle(shape, strides, offset),
    **{'data/0': bytes(24)},
  )
  with pytest.raises(ValueError, match=words):
    read_state_dict(path)


def test_a_storage_that_was_cut_off_is_refused(tmp_path):
  path = _archive(
    tmp_path / 'a.pth', _tensor_pickle((6,), (1,)), **{'data/0': bytes(20)}
  )
  with pytest.raises(ValueError, match='has 5 numbers instead of 6'):
    read_state_dict(path)


def test_bytes_in_another_order_are_refused(tmp_path):
  path = _archive(
    tmp_path / 'a.pth',
    _tensor_pickle((6,), (1,)),
    **{'data/0': bytes(24), 'byteorder': 'big'},
  )
  with pytest.raises(ValueError, match='its bytes are in big order'):
    read_state_dict(path)


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('wrapped', [False, True])
def test_what_torch_saves_is_read_as_torch_reads_it(tmp_path, legacy, wrapped):
  torch = pytest.importorskip('torch', reason='torch is not there: .[torch]')
  state = torch.nn.Sequential(
    torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
  ).state_dict()
  state |= {
    'transposed': torch.arange(6.0).reshape(2, 3).T,
    'excerpt': torch.arange(10)[3:7:2],
    'shared': state['0.weight'][1],
    'bfloat16': torch.ones(2, dtype=torch.bfloat16) / 3,
    'half': torch.ones(2, dtype=torch.float16) / 3,
    'parameter': torch.nn.Parameter(torch.ones(2)),
    'empty': torch.zeros(0, 3),
    'scalar': torch.tensor(3.5),
  }
  path = tmp_path / 'a.pth'
  torch.save(
    {'state_dict': state, 'epoch': 3} if wrapped else state,
    path,
    _use_new_zipfile_serialization=not legacy,
  )
  found = read_state_dict(path)
  assert found.keys() == state.keys()
  for name, array in found.items():
    expected = state[name].detach()
    assert str(array.dtype) == str(expected.dtype).removeprefix('torch.')
    np.testing.assert_array_equal(
      array.astype(np.float64), expected.double().numpy()
    )
  # Cut off anywhere, it is refused in one line.
  content = path.read_bytes()
  for size in (0, 1, 100, len(content) // 2, len(content) - 1):
    path.write_bytes(content[:size])
    with pytest.raises(ValueError, match=str(path)) as error:
      read_state_dict(path)
    assert '\n' not in str(error.value)


def test_safetensors_that_are_damaged_are_named(tmp_path):
  from safetensors.numpy import save_file

  path = tmp_path / 'model.safetensors'
  save_file({'a': np.ones((2, 3), np.float32)}, path)
  assert find_file(str(tmp_path)) == path
  tensors = open_tensors(path)
  assert tensors.shapes == {'a': (2, 3)}
  np.testing.assert_array_equal(tensors.read_fn('a'), np.ones((2, 3)))
  content = path.read_bytes()
  for damaged in (content[:-3], content[:5], b'', b'x' * 100):
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match='no safetensors file, or a damaged'):
      open_tensors(path)


@pytest.mark.parametrize(
  ('name', 'error', 'words'),
  [
    ('nowhere.pth', FileNotFoundError, 'There is no file'),
    ('.', FileNotFoundError, 'has neither model.safetensors nor pytorch_model'),
    ('notes.txt', ValueError, r'is none of \*.safetensors, \*.pth'),
    ('gs://bucket/a.pth', ValueError, 'lies in a bucket'),
  ],
)
def test_what_is_no_file_of_arrays_is_refused(tmp_path, name, error, words):
  (tmp_path / 'notes.txt').write_text('')
  path = name if '://' in name else str(pathlib.Path(tmp_path, name))
  with pytest.raises(error, match=words):
    find_file(path)
