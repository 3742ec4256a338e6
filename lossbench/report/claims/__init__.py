"""The paper's claims, tested on the records of a study."""

from collections.abc import Sequence

from lossbench.report import statistics
from lossbench.report.bootstrap import LEVEL
from lossbench.report.claims import (
  accuracies,
  calibrations,
  representations,
  similarity,
  temperature,
)
from lossbench.report.claims.claim import (
  FAILS,
  HOLDS,
  NOT_RUN,
  UNDECIDED,
  Claim,
  Evidence,
  Finding,
)
from lossbench.report.records import NotRun, StudyRecords

CLAIMS: tuple[Claim, ...] = (
  *accuracies.CLAIMS,
  *similarity.CLAIMS,
  *representations.CLAIMS,
  *temperature.CLAIMS,
  *calibrations.CLAIMS,
)


def evaluate_claims(
  study: StudyRecords, claims: Sequence[Claim] = CLAIMS
) -> list[Finding]:
  """What a study says on each claim, group by group.

  A claim holds, or does not, where its two-sided p-value is at most 5 % after
  Holm's correction for all claims and groups that were tested; else nobody can
  tell. A claim that no group has the records for has one finding, which says how
  to make them.

  Args:
    study: the records.
    claims: to test.
  """
  found: list[tuple[Claim, str, Evidence | None, str]] = []
  for claim in claims:
    tested, reasons = [], []
    for group in study.groups():
      try:
        tested.append((claim, group, claim.collect(study, group), ''))
      except NotRun as reason:
        reasons.append(str(reason))
    # What this study itself would make comes first.
    reasons.sort(key=lambda reason: study.rerun_command not in reason)
    found += tested or [(claim, '', None, reasons[0])]
  corrected = statistics.holm([e and e.p_value for _, _, e, _ in found])
  return [
    Finding(
      claim=claim,
      group=group,
      verdict=_verdict(evidence, p_holm),
      evidence=evidence,
      p_holm=p_holm,
      reason=reason,
    )
    for (claim, group, evidence, reason), p_holm in zip(
      found, corrected, strict=True
    )
  ]


def _verdict(evidence: Evidence | None, p_holm: float | None) -> str:
  if evidence is None:
    return NOT_RUN
  if p_holm > LEVEL:
    return UNDECIDED
  return HOLDS if evidence.p_for < evidence.p_against else FAILS
