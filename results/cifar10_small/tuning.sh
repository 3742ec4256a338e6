#!/bin/sh
# The learning rates of configs/cifar10_small.py, from the repository's root: sh
# results/cifar10_small/tuning.sh DIR, a TFDS directory with cifar10. Weight decays and
# the losses' own hyperparameters are held (LOW = HIGH) at Table A.2's.
tune() {
  objective=$1; learning_rates=$2; weight_decay=$3; data_dir=$4; shift 4
  python -m lossbench.tune --config="configs/cifar10_small.py:$objective" --workdir="tuning/cifar10_small/$objective" --num_seeds=1 --search="learning_rate=$learning_rates:0.5" --search="weight_decay=$weight_decay:$weight_decay:1" "$@" --config.num_epochs=20 --config.eval_every_epochs=20 --config.data_dir="$data_dir"
}
tune softmax -1.25:-0.25 -3.75 "$1"
tune label_smoothing -1.5:-0.5 -3.75 "$1" --search_linear=objective.label_smoothing.alpha=0.04:0.04:1
tune dropout -1.5:-0.5 -3.75 "$1" --search_linear=objective.dropout.keep_prob=0.65:0.65:1
tune extra_final_layer_l2 -1.5:-0.5 -3.5 "$1" --search=objective.extra_final_layer_l2.lambda_final=-1.5:-1.5:1
tune logit_penalty -1.25:-0.25 -3.75 "$1" --search=objective.logit_penalty.beta=-2.83:-2.83:1
tune logit_normalization -1:0 -4 "$1" --search_linear=objective.logit_normalization.temperature=0.14:0.14:1
tune cosine_softmax -1.25:-0.25 -4 "$1" --search_linear=objective.cosine_softmax.temperature=0.08:0.08:1
tune sigmoid -0.5:0.5 -3.75 "$1"
tune squared_error -1.5:-0.5 -3.5 "$1" --search_linear=objective.squared_error.kappa=8:8:1 --search_linear=objective.squared_error.target_logit=0.83:0.83:1
