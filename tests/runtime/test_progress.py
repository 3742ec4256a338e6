"""Progress lines against a clock that the test moves."""

import pytest

from lossbench.runtime.progress import Progress, format_duration


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (0, '0s'),
    (0.4, '0s'),
    (42, '42s'),
    (59.4, '59s'),
    (59.6, '1m00s'),
    (190, '3m10s'),
    (3599.6, '1h00m'),
    (5 * 3600 + 7 * 60 + 59, '5h07m'),
    (24 * 3600, '1d00h'),
    (51 * 3600, '2d03h'),
  ],
)
def test_format_duration(seconds, text):
  assert format_duration(seconds) == text


class Clock:
  now = 1000.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock():
  return Clock()


def test_rate_and_time_left(clock):
  progress = Progress(0, 1000, clock=clock)
  clock.now += 60  # compiling
  progress.tick(10)
  clock.now += 10
  rate, line = progress.tick(110)
  assert rate == pytest.approx(10)
  assert line == '110/1000 (11%), ETA 1m29s'  # 890 left at 10 a second


def test_compilation_does_not_spoil_the_estimate(clock):
  """The first tick knows no better; all later ones leave it out."""
  progress = Progress(0, 100, clock=clock)
  clock.now += 90
  rate, line = progress.tick(1)
  assert rate == pytest.approx(1 / 90)
  assert line == '1/100 (1%), ETA 2h28m'
  clock.now += 1
  _, line = progress.tick(2)
  assert line.endswith('ETA 1m38s')


def test_estimate_averages_over_the_run_and_rate_does_not(clock):
  progress = Progress(0, 100, clock=clock)
  progress.tick(10)
  clock.now += 10
  progress.tick(20)
  clock.now += 30
  rate, line = progress.tick(30)
  assert rate == pytest.approx(10 / 30)
  assert line.endswith('ETA 2m20s')  # 70 left; 20 took 40 seconds


def test_excluded_time_is_not_in_the_rate_but_is_still_waited_for(clock):
  """Evaluations slow the run down, not the training step."""
  progress = Progress(0, 100, clock=clock)
  progress.tick(10)
  clock.now += 20
  rate, line = progress.tick(20, excluded_secs=15)
  assert rate == pytest.approx(2)
  assert line.endswith('ETA 2m40s')  # 80 left at 2 s each


def test_resumed_run_counts_its_own_steps_only(clock):
  progress = Progress(500, 1000, clock=clock)
  clock.now += 5
  rate, line = progress.tick(510)
  assert rate == pytest.approx(2)
  assert line == '510/1000 (51%), ETA 4m05s'


def test_the_end(clock):
  progress = Progress(0, 10, clock=clock)
  clock.now += 1
  _, line = progress.tick(10)
  assert line == '10/10 (100%), ETA 0s'


def test_a_clock_that_stands_still_breaks_nothing(clock):
  progress = Progress(0, 10, clock=clock)
  progress.tick(5)
  _, line = progress.tick(6)
  assert line.startswith('6/10 (60%)')
