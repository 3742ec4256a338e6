"""Scores predictions of any model: python -m lossbench.score.

  python -m lossbench.score --predictions=preds.npz
  python -m lossbench.score --predictions=a=a.npz --predictions=b=b.npz

Measures what `lossbench.evaluate` measures from outputs, of .npz files that any
program wrote: logits or log-probabilities and labels, optionally ids, features,
layers and the last layer's kernel (the schema is in `lossbench/arrays/files.py`).
Accuracy, calibration before and after temperature scaling (fitted on the same
examples, and on --calibration or either half), out-of-distribution detection
against --ood, class separation, neural collapse and spectra; of several files also
agreement, ensembles and CKA, as `lossbench.compare` has them. Prints tables and
writes them into --output, which `lossbench.report` reads like a study.
"""

from lossbench import cli  # isort: split

import shlex
import sys

from absl import flags

from lossbench.runtime import console


def define_flags():
  """Defines flags; not at import: a process can import several binaries."""
  flags.DEFINE_multi_string(
    'predictions',
    None,
    '[NAME=]PATH of an .npz with logits or log_probs, and labels; repeat for '
    'several models. Files of one name are its seeds.',
  )
  flags.DEFINE_multi_string(
    'calibration',
    [],
    'PATH of an .npz with other examples to fit the temperature on; repeat it as '
    'often as --predictions. Default: either half for the other.',
  )
  flags.DEFINE_multi_string(
    'shifted',
    [],
    '[NAME=]PATH of the outputs on another data set of the same classes; with '
    'several --predictions repeat it for each.',
  )
  flags.DEFINE_multi_string(
    'ood',
    [],
    '[NAME=]PATH of the outputs on examples of no class; with several '
    '--predictions repeat it for each.',
  )
  flags.DEFINE_string(
    'objective',
    None,
    'Objective whose map turns logits into probabilities, e.g. sigmoid. Default: '
    'softmax.',
  )
  flags.DEFINE_multi_string(
    'hparam',
    [],
    'PART.NAME=VALUE, a hyperparameter of --objective, e.g. '
    'logit_normalization.temperature=0.04.',
  )
  flags.DEFINE_string(
    'dataset', 'predictions', 'What the examples of --predictions are called.'
  )
  flags.DEFINE_string('output', 'scores', 'Directory of the results.')
  flags.DEFINE_integer(
    'num_cka_examples',
    10_000,
    'Layers are compared on at most so many examples.',
    lower_bound=4,
  )
  flags.DEFINE_integer(
    'minibatch_size',
    32,
    'Examples in a minibatch of the unbiased CKA of whole feature maps.',
    lower_bound=4,
  )


def parse_hparams(texts: list[str]) -> dict[str, dict[str, float]]:
  """Part -> name -> value, of --hparam.

  Raises:
    ValueError: if one is not PART.NAME=VALUE.
  """
  found: dict[str, dict[str, float]] = {}
  for text in texts:
    field, equals, value = text.partition('=')
    part, dot, name = field.partition('.')
    try:
      found.setdefault(part, {})[name] = float(value)
    except ValueError:
      equals = ''
    if not (equals and dot and name):
      raise ValueError(f'--hparam={text} is not PART.NAME=VALUE.')
  return found


def _open_models(args):
  from lossbench.arrays import scores
  from lossbench.objectives import create_objective

  objective, hparams = None, parse_hparams(args.hparam)
  if args.objective is not None:
    objective = create_objective(args.objective, hparams)
  elif hparams:
    raise ValueError('--hparam is of an --objective: name it.')
  named = {
    flag: [scores.parse_named(text, flag=flag) for text in args[flag].value]
    for flag in ('predictions', 'shifted', 'ood')
  }
  return scores.open_models(
    named['predictions'],
    calibration=args.calibration,
    shifted=named['shifted'],
    ood=named['ood'],
    objective=objective,
  )


def main(arguments):
  del arguments
  args = flags.FLAGS
  console.configure()
  from lossbench.arrays.scores import score_models
  from lossbench.comparison import printing as comparison_printing
  from lossbench.evaluation import printing

  models = _open_models(args)
  found = score_models(
    models,
    output=args.output,
    dataset=args.dataset,
    command=shlex.join(['python', '-m', 'lossbench.score', *sys.argv[1:]]),
    num_cka_examples=args.num_cka_examples,
    minibatch_size=args.minibatch_size,
  )
  for model, records, others in zip(
    models, found.records, found.others, strict=True
  ):
    printing.print_table(
      f'{model.name}: {model.outputs.path}, {len(model.outputs)} examples',
      records,
    )
    printing.print_ood_table(others, {})
  if found.comparison is not None:
    comparison_printing.print_tables(found.comparison)
  print(f'Wrote {args.output}')


if __name__ == '__main__':
  define_flags()
  cli.run(main, required=['predictions'])
