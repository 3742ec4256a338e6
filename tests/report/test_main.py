"""The command, on whole, damaged and empty studies."""

import base64
import csv
import html.parser
import io
import json
import pathlib
import re
import subprocess
import sys

import pytest

from lossbench.report import figures
from lossbench.report.__main__ import write_claims, write_report
from lossbench.report.reading import load_study
from lossbench.report.tables import accuracy, rendering
from lossbench.runs.directory import write_json
from tests.damage import change_a_digit
from tests.report.conftest import write_study

ROOT = pathlib.Path(__file__).parents[2]


def _report(workdir, *more):
  return subprocess.run(
    [sys.executable, '-m', 'lossbench.report', f'--workdir={workdir}', *more],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


class _Page(html.parser.HTMLParser):
  """Checks nesting and collects what a browser would load."""

  def __init__(self):
    super().__init__()
    self.images, self.links, self.ids, self.open = [], [], set(), []

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.ids |= {attrs.get('id')}
    if tag == 'img':
      self.images.append(attrs['src'])
    if tag == 'a':
      self.links.append(attrs['href'])
    if tag not in ('img', 'meta', 'link'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def test_a_page_that_needs_nothing_else(synthetic_study):
  result = _report(synthetic_study)
  assert result.returncode == 0, result.stderr
  path = synthetic_study / 'report' / 'report.html'
  assert str(path) in result.stdout
  text = path.read_text()
  page = _Page()
  page.feed(text)
  assert page.open == []
  assert len(page.images) == 15
  for source in page.images:
    kind, data = source.split(',')
    assert kind == 'data:image/png;base64'
    assert base64.b64decode(data).startswith(b'\x89PNG')
  assert all(link[1:] in page.ids for link in page.links)
  assert not re.search(r'(src|href)="https?:', text)
  assert 'A &lt;synthetic&gt; study' in text
  assert 'python main.py imagenet_resnet50/softmax/seed0' in text
  assert 'Table 4: temperature' in text  # as not run
  assert text.index('id="claims"') < text.index('id="tables"')
  claim = 'Class separation R², on training images, is lowest for softmax.'
  assert f'<td>{claim} (Table 2)</td>' in text
  claims = json.loads((path.parent / 'claims.json').read_text())
  assert claims['study'] == 'synthetic'
  assert 'n/a: NaN predictions' in text
  assert (
    'imagenet_resnet50: 3 seeds each, 2,000 training examples; 3 seeds each'
    in text
  )
  for folder, suffixes in (
    ('tables', {'.md', '.tex', '.csv'}),
    ('figures', {'.pdf', '.png'}),
  ):
    files = list((path.parent / folder).iterdir())
    assert {file.suffix for file in files} == suffixes
    assert all(file.stat().st_size for file in files)


@pytest.fixture
def few_figures(monkeypatch):
  """Two are enough where it is not figures that are looked at."""
  monkeypatch.setattr(figures, 'FIGURES', figures.FIGURES[1:3])


@pytest.mark.usefixtures('few_figures')
def test_every_number_says_what_it_comes_from(synthetic_study):
  path = write_report(synthetic_study)
  text = path.read_text()
  name = 'imagenet_resnet50/softmax/seed0'
  assert f'title="{name}: 77.00 (step 100, checkpoint 0123abcd)\n' in text
  assert '<code>learning_rate = 1.6</code>' in text
  assert '<code>model.depth = 50</code>' in text
  for found in ('checkpoint = 0123abcd', 'revision = abc123', 'devices = 4'):
    assert f'<code>{found}</code>' in text
  assert '<div>tempered_ece: fitted on this split</div>' in text
  rows = list(
    csv.DictReader(io.StringIO((path.parent / 'numbers.csv').read_text()))
  )
  [row] = [
    row
    for row in rows
    if (row['table'], row['column'], row['run']) == ('table_1', 'top-1', name)
  ]
  assert row == {
    'study': 'synthetic',
    'table': 'table_1',
    'row': 'Softmax',
    'column': 'top-1',
    'run': name,
    'value': '0.77',
    'n': '1000',
    'note': '',
    'metric': 'top1_accuracy',
    'step': '100',
    'checkpoint': '0123abcd',
    'compute_dtype': 'float32',
    'version': '0.2',
    'revision': 'abc123',
  }
  # A table's mean is that of its numbers.
  accuracies = [
    float(row['value'])
    for row in rows
    if (row['table'], row['row'], row['column'])
    == ('table_1', 'Softmax', 'top-1')
  ]
  assert sum(accuracies) / 3 == pytest.approx(0.772)


@pytest.mark.usefixtures('few_figures')
def test_several_studies_are_one_page(synthetic_study, tmp_path):
  """Each table of the studies that have it, claims corrected together."""
  second = write_study(tmp_path / 'second')
  study = json.loads((second / 'study.json').read_text())
  study |= {'name': 'augmented', 'title': 'Augmented'}
  for run in study['runs']:
    if run['objective'] == 'dropout':
      run['objective'] = 'sigmoid+mixup'
  (second / 'study.json').write_text(json.dumps(study))
  alone = write_claims(synthetic_study)
  path = write_report(synthetic_study, second)
  assert path.parent == synthetic_study / 'report_of_several'
  text = path.read_text()
  page = _Page()
  page.feed(text)
  assert page.open == []
  assert '<h1>A &lt;synthetic&gt; study · Augmented</h1>' in text
  tables = {file.name for file in (path.parent / 'tables').iterdir()}
  assert {'synthetic-table_1.md', 'augmented-table_1.md'} <= tables
  # Only one of them has Table C.2, and neither has Table 4.
  assert 'augmented-table_c2.md' in tables
  assert 'synthetic-table_c2.md' not in tables
  section = text.partition('Table C.2: ')[2].partition('<h3')[0]
  assert '<h4>augmented</h4>' in section
  assert 'class="notrun"' not in section
  assert text.partition('Table 4: ')[2].index('class="notrun"')
  assert text.count(f'--workdir={second}') > 1
  assert 'augmented: imagenet_resnet50: 3 seeds each' in text
  found = json.loads((path.parent / 'claims.json').read_text())
  assert found['study'] == 'synthetic, augmented'
  tested = [c for c in found['claims'] if c['evidence']]
  assert {c['study'] for c in tested} == {'synthetic', 'augmented'}
  [before] = [
    c['p_holm']
    for c in json.loads(alone.with_suffix('.json').read_text())['claims']
    if c['name'] == 'seeds_differ_little'
  ]
  [after] = [
    c['p_holm']
    for c in tested
    if (c['name'], c['study']) == ('seeds_differ_little', 'synthetic')
  ]
  assert after >= before
  with pytest.raises(ValueError, match='is given twice'):
    write_report(synthetic_study, synthetic_study)


def test_claims_alone_are_printed(synthetic_study):
  result = _report(synthetic_study, '--claims')
  assert result.returncode == 0, result.stderr
  folder = synthetic_study / 'report'
  assert {p.name for p in folder.iterdir()} == {'claims.md', 'claims.json'}
  assert result.stdout == (folder / 'claims.md').read_text()
  assert '| cannot tell | the largest s.d. over seeds, ' in result.stdout


def test_damaged_files_are_named_and_left_out(synthetic_study):
  run = synthetic_study / 'runs/imagenet_resnet50/softmax/seed1'
  own = run / 'eval' / 'imagenet2012-validation'
  for name in ('metrics.json', 'curves.npz', 'predictions.npz'):
    content = (own / name).read_bytes()
    (own / name).write_bytes(content[: len(content) // 2])
  (own.parent / 'imagenet_a-test' / 'metrics.json').write_text('[]')
  (run / 'history.json').write_text('{}')
  comparison = synthetic_study / 'comparisons/imagenet_resnet50/comparison.json'
  comparison.write_text('')
  study = load_study(synthetic_study)
  named = ' '.join(study.problems)
  for path in (
    own / 'metrics.json',
    own / 'curves.npz',
    own.parent / 'imagenet_a-test' / 'metrics.json',
    own / 'predictions.npz',
    run / 'history.json',
    comparison,
  ):
    assert f'{path} is damaged and left out' in named
  result = _report(synthetic_study)
  assert result.returncode == 0, result.stderr
  assert 'Traceback' not in result.stderr
  assert str(comparison) in result.stderr
  table = (synthetic_study / 'report/tables/table_1.md').read_text()
  assert '(2 of 3)' in table


def test_a_changed_digit_is_named_and_left_out(synthetic_study):
  run = synthetic_study / 'runs/imagenet_resnet50/softmax/seed1'
  damaged = {
    run / 'eval/imagenet2012-validation/metrics.json': 'value',
    run / 'eval/transfer-food101/metrics.json': 'n',
    run / 'history.json': 'top1_accuracy',
    synthetic_study
    / 'comparisons/imagenet_resnet50/comparison.json': 'num_examples',
  }
  for path in damaged:
    write_json(path, json.loads(path.read_text()))
  assert load_study(synthetic_study).problems == ()
  for path, name in damaged.items():
    change_a_digit(path, name)
  study = load_study(synthetic_study)
  assert len(study.problems) == len(damaged)
  rerun = study.rerun_command
  for path in damaged:
    [problem] = [
      p for p in study.problems if p.startswith(f'{path} is damaged')
    ]
    assert 'the checksum (CRC-32) differs' in problem
    assert problem.endswith(rerun)
  found = next(r for r in study.runs if r.path == run)
  assert not found.is_evaluated
  assert not found.history
  assert 'food101' not in found.transfers
  assert not study.comparisons


def _rerecord(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
  ('changes', 'text'),
  [
    ({'step': 200}, 'of step 200, and the study wants step 100'),
    (
      {'checkpoint': 'ffffffff'},
      'of checkpoint ffffffff at step 100, and the study wants 0123abcd',
    ),
    (
      {'compute_dtype': 'bfloat16'},
      'computed in bfloat16, and the study wants float32',
    ),
  ],
)
def test_numbers_of_other_checkpoints_are_left_out(
  synthetic_study, changes, text
):
  run = synthetic_study / 'runs/imagenet_resnet50/softmax/seed1'
  own = run / 'eval' / 'imagenet2012-validation'
  for path in (own, run / 'eval' / 'transfer-food101'):
    _rerecord(path / 'metrics.json', **changes)
  study = load_study(synthetic_study)
  named = ' '.join(study.problems)
  for path in (own, run / 'eval' / 'transfer-food101'):
    assert f'{path / "metrics.json"} is left out: it is {text}' in named
  [foreign] = [r for r in study.runs if r.name.endswith('softmax/seed1')]
  assert foreign.value('top1_accuracy') is None
  assert foreign.curves == {}
  table = accuracy.build(study)
  assert '77.20 ± 0.20 (2 of 3)' in rendering.to_markdown(table, title='T')
  [note] = [note for note in table.notes if 'seed 1 not run' in note]
  assert text in note
  # What is of the right one is kept.
  assert foreign.value('subset_top1_accuracy', dataset='imagenet_a') == 0.05
  assert foreign.transferred('cifar10').value == 0.9


def test_a_study_that_wants_nothing_yet_takes_what_was_evaluated(
  synthetic_study,
):
  path = synthetic_study / 'study.json'
  study = json.loads(path.read_text())
  for run in study['runs']:
    run['wanted'] = None
  path.write_text(json.dumps(study))
  run = synthetic_study / 'runs' / study['runs'][0]['name']
  evaluation = {'step': 200, 'checkpoint': 'ffffffff'}
  (run / 'eval' / 'evaluation.json').write_text(json.dumps(evaluation))
  _rerecord(run / 'eval' / 'transfer-food101' / 'metrics.json', step=200)
  found = load_study(synthetic_study)
  assert found.runs[0].value('top1_accuracy') is None
  assert found.runs[1].value('top1_accuracy') == 0.772


@pytest.mark.parametrize(
  ('change', 'text'),
  [
    ({'step': 200}, 'it is of step 200, and the study wants step 100'),
    ({'name': 'seed0'}, "'seed0' is no run of this study"),
  ],
)
def test_comparisons_of_other_checkpoints_are_left_out(
  synthetic_study, change, text
):
  path = synthetic_study / 'comparisons/imagenet_resnet50/comparison.json'
  runs = json.loads(path.read_text())['runs']
  runs[2] |= change
  _rerecord(path, runs=runs)
  study = load_study(synthetic_study)
  assert study.comparisons == {}
  [problem] = study.problems
  assert problem.startswith(f'{path} is left out: ')
  assert text in problem


def _as_version_0_1(root):
  """What differed: text for fields, and neither steps nor fingerprints."""
  path = root / 'study.json'
  study = json.loads(path.read_text())
  for run in study['runs']:
    for field in ('model', 'varied', 'wanted'):
      del run[field]
    run['recipe_file'], run['recipe'] = run['recipe'], run.pop('group')
    settings = run.pop('settings')
    [(field, value)] = settings.items()
    run['variant'] = f'{field.rpartition(".")[2]}={value}'
    run['commands']['train'] += f' --config.{field}={value} --config.seed=3'
    run['transfer'] = [target['name'] for target in run['transfer']]
  path.write_text(json.dumps(study))
  path = root / 'comparisons/imagenet_resnet50/comparison.json'
  record = json.loads(path.read_text())
  for run in record['runs']:
    run['path'] = f'/elsewhere/runs/{run["name"]}'
    run['name'] = run['name'].rpartition('/')[2]
    del run['group'], run['checkpoint']
  del record['agreement']['num_both_wrong']
  path.write_text(json.dumps(record))


def test_a_study_of_version_0_1_stays_readable(synthetic_study):
  path = synthetic_study / 'study.json'
  study = json.loads(path.read_text())
  for run in study['runs']:
    run['settings'] = {'objective.dropout.keep_prob': 0.5}
    run['varied'] = list(run['settings'])
    config = synthetic_study / 'runs' / run['name'] / 'config.json'
    config.write_text('{"model": {"name": "resnet"}}')
  path.write_text(json.dumps(study))
  path = synthetic_study / 'comparisons/imagenet_resnet50/comparison.json'
  record = json.loads(path.read_text())
  # Of 1000 examples 3 are right in a alone, 5 in b alone and 20 in neither.
  record['agreement']['both_right_or_wrong'][0][1] = 0.992
  record['agreement']['num_both_wrong'][0][1] = 20
  record['runs'][0]['top1_accuracy'] = 0.975
  record['runs'][1]['top1_accuracy'] = 0.977
  for run in record['runs'][2:]:
    run['top1_accuracy'] = 0.9
  path.write_text(json.dumps(record))
  expected = load_study(synthetic_study)
  _as_version_0_1(synthetic_study)
  found = load_study(synthetic_study)
  assert found.problems == ()
  for old, new in zip(found.runs, expected.runs, strict=True):
    for field in ('key', 'settings', 'model', 'metrics', 'transfers'):
      assert getattr(old, field) == getattr(new, field)
    assert (old.group, old.recipe) == (new.group, new.recipe)
  [old], [new] = found.comparisons.values(), expected.comparisons.values()
  assert (old.keys, old.group_keys) == (new.keys, new.group_keys)
  assert old.record['agreement']['num_both_wrong'][0][1] == 20


@pytest.mark.usefixtures('few_figures')
def test_the_run_list_says_what_is_there(synthetic_study):
  done = synthetic_study / 'runs/imagenet_resnet50/softmax/seed1'
  (done / 'error.json').write_text('{"stage": "train", "error": "disk full"}')
  path = synthetic_study / 'study.json'
  study = json.loads(path.read_text())
  study['overrides'] = ['--config.groups.a b.num_seeds=3']
  study['runs'][0]['commands'].pop('evaluate')  # only its holdout counts
  path.write_text(json.dumps(study))
  for metrics in (synthetic_study / 'runs' / study['runs'][0]['name']).glob(
    'eval/*/metrics.json'
  ):
    metrics.unlink()
  text = write_report(synthetic_study).read_text()
  assert '9 of 9 runs have results' in text
  assert 'disk full' not in text
  assert '0.7700 (holdout)' in text
  assert '&#39;--config.groups.a b.num_seeds=3&#39;' in text


def test_no_study_an_empty_one_a_damaged_one(tmp_path, synthetic_study):
  result = _report(tmp_path)
  assert result.returncode == 1
  assert result.stderr.startswith(f'Error: {tmp_path} is not a study')
  (synthetic_study / 'study.json').write_text('{"name": 1')
  with pytest.raises(ValueError, match=r'study\.json is damaged'):
    load_study(synthetic_study)


def test_a_study_without_results(synthetic_study):
  for pattern in ('runs/*/*/*/eval/*/*', 'runs/*/*/*/history.json'):
    for path in synthetic_study.glob(pattern):
      path.unlink()
  with pytest.raises(ValueError, match='has left a result'):
    load_study(synthetic_study)


def test_needs_neither_jax_nor_tensorflow(synthetic_study):
  program = (
    'import sys\n'
    'from lossbench.report.__main__ import write_report\n'
    'write_report(sys.argv[1])\n'
    "loaded = {'jax', 'tensorflow', 'flax', 'clu'} & set(sys.modules)\n"
    'sys.exit(str(loaded) if loaded else 0)'
  )
  result = subprocess.run(
    [sys.executable, '-c', program, str(synthetic_study)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
