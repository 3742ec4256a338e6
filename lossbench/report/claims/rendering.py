"""Findings as text: rows, Markdown and JSON."""

import json
from collections.abc import Sequence

from lossbench.report import display
from lossbench.report.bootstrap import LEVEL
from lossbench.report.claims.claim import Finding

HEADINGS = (
  'claim',
  'group',
  'verdict',
  'effect and 95 % interval',
  'p (Holm)',
  'power',
  'data',
  'refuted by; decided by',
)
CAPTION = (
  'What this study says on each statement of the paper that can be tested. A '
  f'claim holds, or does not, at {100 * LEVEL:g} % after Holm’s correction for all '
  'claims and groups that were tested (two-sided p-values); else nobody can tell '
  'from these records. Of several comparisons the least favourable is shown. '
  'Intervals and power are before correction.'
)


def effect_text(finding: Finding) -> str:
  """The effect in words and numbers, or why there is none."""
  evidence = finding.evidence
  if evidence is None:
    return finding.reason
  numbers = display.difference(
    evidence.estimate, evidence.interval, is_percent=evidence.is_percent
  )
  return f'{evidence.what}: {numbers}'


def rows(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
  """What `HEADINGS` name, for each finding."""
  found = []
  for finding in findings:
    claim, evidence = finding.claim, finding.evidence
    found.append(
      (
        f'{claim.statement} ({claim.source})',
        ': '.join(filter(None, (finding.study, finding.group))) or display.NONE,
        finding.verdict,
        effect_text(finding),
        f'{finding.p_holm:.2g}' if evidence else display.NONE,
        (evidence.power if evidence else '') or display.NONE,
        evidence.data if evidence else display.NONE,
        ' '.join(
          filter(None, (claim.refuted_by, evidence and evidence.remedy))
        ),
      )
    )
  return found


def to_markdown(findings: Sequence[Finding]) -> str:
  """GitHub's Markdown."""
  lines = [
    f'**Claims.** {CAPTION}',
    '',
    f'| {" | ".join(HEADINGS)} |',
    '|---' * len(HEADINGS) + '|',
  ]
  lines += [f'| {" | ".join(row)} |' for row in rows(findings)]
  return '\n'.join(lines) + '\n'


def to_json(findings: Sequence[Finding], *, study: str, version: str) -> str:
  """Everything, unrounded and as fractions, so that studies can be compared."""
  records = []
  for finding in findings:
    evidence = finding.evidence
    record = {
      'name': finding.claim.name,
      'statement': finding.claim.statement,
      'source': finding.claim.source,
      'refuted_by': finding.claim.refuted_by,
      'study': finding.study,
      'group': finding.group,
      'verdict': finding.verdict,
      'p_holm': finding.p_holm,
      'reason': finding.reason,
      'evidence': None,
    }
    if evidence is not None:
      record['evidence'] = {
        'effect': evidence.what,
        'estimate': evidence.estimate,
        'interval': evidence.interval and list(map(float, evidence.interval)),
        'p_for': evidence.p_for,
        'p_against': evidence.p_against,
        'data': evidence.data,
        'power': evidence.power,
        'remedy': evidence.remedy,
      }
    records.append(record)
  content = {
    'study': study,
    'lossbench_version': version,
    'correction': 'Holm, over all claims, studies and groups that were tested',
    'level': LEVEL,
    'claims': records,
  }
  return json.dumps(content, indent=2, ensure_ascii=False) + '\n'
