"""What features and labels every measure takes, and how it refuses others."""

import numpy as np
import pytest

from lossbench.metrics.features import as_labels


@pytest.mark.parametrize('label', [-1, 3])
def test_labels_outside_the_classes_are_counted(label):
  labels = np.array([0, 1, label, 2, label])
  with pytest.raises(ValueError, match=r'^2 of 5 labels are not class'):
    as_labels(labels, num_examples=5, num_classes=3, all_classes=False)


def test_labels_without_a_number_of_classes_are_numbered_anew():
  labels, num_classes = as_labels(
    np.array([7, 3, 7], np.uint8),
    num_examples=3,
    num_classes=None,
    all_classes=True,
  )
  np.testing.assert_array_equal(labels, [1, 0, 1])
  assert labels.dtype == np.int64
  assert num_classes == 2
