"""A claim, the evidence on it and what that says."""

import dataclasses
from collections.abc import Callable

from lossbench.report.records import StudyRecords

HOLDS = 'holds'
FAILS = 'does not hold'
UNDECIDED = 'cannot tell'
NOT_RUN = 'not run'


@dataclasses.dataclass(frozen=True)
class Evidence:
  """What a study's records say on a claim.

  Attributes:
    what: the effect, in words.
    estimate: of it.
    interval: of 95 %; None where nothing tells it.
    p_for: one-sided p-value of the claim: small where it holds.
    p_against: of its opposite: small where that holds.
    is_percent: the effect is shown in percentage points.
    data: objectives, seeds, examples.
    power: what could have been found.
    remedy: what would decide; '' where nothing is known to.
  """

  what: str
  estimate: float
  interval: tuple[float, float] | None
  p_for: float
  p_against: float
  is_percent: bool
  data: str
  power: str = ''
  remedy: str = ''

  @property
  def p_value(self) -> float:
    """Two-sided: for either answer."""
    return min(1.0, 2 * min(self.p_for, self.p_against))


@dataclasses.dataclass(frozen=True)
class Claim:
  """A statement of the paper that records can support or contradict.

  Attributes:
    name: unique, e.g. 'softmax_separates_least'.
    statement: what the paper says, with its numbers.
    source: where it says so.
    refuted_by: what would show that it does not hold.
    collect: (study, group) -> evidence; raises NotRun where records lack, with
      the command that makes them.
  """

  name: str
  statement: str
  source: str
  refuted_by: str
  collect: Callable[[StudyRecords, str], Evidence]


@dataclasses.dataclass(frozen=True)
class Finding:
  """What a study says on a claim.

  Attributes:
    claim: the claim.
    group: whose runs; '' where none has the records.
    verdict: HOLDS, FAILS, UNDECIDED or NOT_RUN.
    evidence: None where it was not run.
    p_holm: two-sided, corrected for all claims and groups that were tested.
    reason: why it was not run, with the command that does.
    study: its name, where there are several; else ''.
  """

  claim: Claim
  group: str
  verdict: str
  evidence: Evidence | None = None
  p_holm: float | None = None
  reason: str = ''
  study: str = ''
