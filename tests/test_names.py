from lossbench.names import did_you_mean


def test_the_closest_known_name_or_none():
  known = ('sigmoid', 'softmax')
  assert did_you_mean('sigmiod', known) == "Did you mean 'sigmoid'?"
  assert did_you_mean('sigmiod', iter(known)) == "Did you mean 'sigmoid'?"
  assert did_you_mean('resnet', known) == ''
