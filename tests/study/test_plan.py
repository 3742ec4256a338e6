"""Runs of a study, their names and commands."""

import pytest

from lossbench.study import plan
from tests.study.planned import planned


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch, root):
  monkeypatch.chdir(root)


def test_overrides_variants_and_commands():
  study = planned(
    a=dict(
      objectives=('sigmoid+dropout',),
      num_seeds=1,
      overrides=('num_epochs=3',),
      variants=(
        ('objective.dropout.keep_prob=0.5',),
        ('objective.dropout.keep_prob=0.9', 'model.width=8'),
      ),
      transfer=('digits_high', 'digits:holdout', 'folder:/data/x:train'),
      finetune=('digits_low',),
      finetune_learning_rates=(0.01, 1e-05),
      finetune_weight_decays=(0.0,),
      finetune_epochs=20.0,
      ood=False,
      ood_sets=('folder:/data/noisy',),
    )
  )
  first, second = study.runs
  assert first.name == 'a/sigmoid+dropout,keep_prob=0.5/seed0'
  assert second.variant == 'keep_prob=0.9,width=8'
  assert second.varied == ('objective.dropout.keep_prob', 'model.width')
  assert [second.settings[field] for field in second.varied] == [0.9, 8]
  assert second.config.objective.dropout.keep_prob == 0.9
  assert second.config.num_epochs == 3.0
  assert isinstance(second.config.num_epochs, float)
  assert study.commands(second) == {
    'train': 'python main.py --config=configs/digits_cnn.py:sigmoid+dropout '
    '--config.num_epochs=3 --config.objective.dropout.keep_prob=0.9 '
    '--config.model.width=8 --config.seed=0 '
    '--workdir=studies/x/runs/a/sigmoid+dropout,keep_prob=0.9,width=8/seed0',
    'evaluate': 'python -m lossbench.evaluate '
    '--workdir=studies/x/runs/a/sigmoid+dropout,keep_prob=0.9,width=8/seed0 '
    '--step=best --noood --ood_set=folder:/data/noisy',
    'evaluate training': 'python -m lossbench.evaluate '
    '--workdir=studies/x/runs/a/sigmoid+dropout,keep_prob=0.9,width=8/seed0 '
    '--step=best --split=training --num_train_examples=50000',
    'transfer digits_high': 'python -m lossbench.transfer '
    '--workdir=studies/x/runs/a/sigmoid+dropout,keep_prob=0.9,width=8/seed0 '
    '--step=best --dataset=digits_high',
    'transfer digits:holdout': 'python -m lossbench.transfer '
    '--workdir=studies/x/runs/a/sigmoid+dropout,keep_prob=0.9,width=8/seed0 '
    '--step=best --dataset=digits --split=holdout',
    'transfer folder:/data/x:train': 'python -m lossbench.transfer '
    '--workdir=studies/x/runs/a/sigmoid+dropout,keep_prob=0.9,width=8/seed0 '
    '--step=best --dataset=folder:/data/x --split=train',
    'finetune digits_low': 'python -m lossbench.finetune '
    '--workdir=studies/x/runs/a/sigmoid+dropout,keep_prob=0.9,width=8/seed0 '
    '--step=best --dataset=digits_low --learning_rates=0.01,1e-05 '
    '--weight_decays=0.0 --num_epochs=20.0 --batch_size=256',
  }


def test_select_runs():
  runs = planned(a={}, b={}).runs
  chosen = plan.select_runs(runs, ['a/softmax', 'b/sigmoid/seed1'])
  assert len(chosen) == 4
  with pytest.raises(ValueError, match='--only=focal matches no run'):
    plan.select_runs(runs, ['softmax', 'focal'])
