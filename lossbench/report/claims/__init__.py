"""The paper's claims, tested on the records of a study."""

import dataclasses
from collections.abc import Mapping, Sequence

from lossbench.report import statistics
from lossbench.report.bootstrap import LEVEL
from lossbench.report.claims import (
  accuracies,
  calibrations,
  later_edition,
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
  *later_edition.CLAIMS,
  *temperature.CLAIMS,
  *calibrations.CLAIMS,
)


def evaluate_claims(
  studies: Mapping[str, StudyRecords], claims: Sequence[Claim] = CLAIMS
) -> list[Finding]:
  """What studies say on each claim, group by group.

  A claim holds, or does not, where its two-sided p-value is at most 5 % after
  Holm's correction for all claims, studies and groups that were tested; else nobody
  can tell. A claim that no group has the records for has one finding, which says how
  to make them.

  Args:
    studies: name -> records; the name of a single one may be ''.
    claims: to test.
  """
  found: list[Finding] = []
  for claim in claims:
    tested, reasons = [], []
    for name, study in studies.items():
      for group in study.groups():
        try:
          evidence = claim.collect(study, group)
        except NotRun as reason:
          # What a study itself would make comes first.
          reasons.append((study.rerun_command not in str(reason), str(reason)))
        else:
          tested.append(Finding(claim, group, '', evidence, study=name))
    reasons.sort(key=lambda pair: pair[0])
    found += tested or [Finding(claim, '', '', reason=reasons[0][1])]
  corrected = statistics.holm(
    [f.evidence and f.evidence.p_value for f in found]
  )
  return [
    _judged(finding, p_holm)
    for finding, p_holm in zip(found, corrected, strict=True)
  ]


def _judged(finding: Finding, p_holm: float | None) -> Finding:
  evidence = finding.evidence
  verdict = _verdict(evidence, p_holm)
  if verdict in (HOLDS, FAILS):  # nothing is left to decide
    evidence = dataclasses.replace(evidence, remedy='')
  return dataclasses.replace(
    finding, verdict=verdict, evidence=evidence, p_holm=p_holm
  )


def _verdict(evidence: Evidence | None, p_holm: float | None) -> str:
  if evidence is None:
    return NOT_RUN
  if p_holm > LEVEL or evidence.p_for == evidence.p_against:
    return UNDECIDED
  return HOLDS if evidence.p_for < evidence.p_against else FAILS
