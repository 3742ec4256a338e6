"""SIGTERM and Ctrl-C as an exception."""

import signal

import pytest

from lossbench.runtime.stopping import (
  EXIT_STATUS,
  STOPPED,
  Stopped,
  stop_on_signals,
)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_one_line_and_the_status(number, caplog):
  old = signal.getsignal(number)
  with pytest.raises(Stopped) as stopped, stop_on_signals():
    signal.raise_signal(number)
  assert stopped.value.code == EXIT_STATUS == 75
  assert [record.getMessage() for record in caplog.records] == [STOPPED]
  assert signal.getsignal(number) == old


def _clean_up(cleaned):
  try:
    signal.raise_signal(signal.SIGTERM)
  except Exception:
    pytest.fail('it is no Exception')
  finally:
    signal.raise_signal(signal.SIGINT)
    cleaned.append(True)


def test_cleaning_up_is_not_interrupted():
  cleaned = []
  with pytest.raises(Stopped), stop_on_signals():
    _clean_up(cleaned)
  assert cleaned
