#!/bin/sh
# Learning rates for configs/digit_pairs_cnn.py, in the setting of its study, from the
# repository's root: sh results/digit_pairs/tuning.sh. The losses' own hyperparameters
# and the weight decay are held (LOW = HIGH) at the recipe's.
tune() {
  objective=$1; learning_rates=$2; shift 2
  python -m lossbench.tune --config="configs/digit_pairs_cnn.py:$objective" --workdir="tuning/digit_pairs/$objective" --num_seeds=2 --search="learning_rate=$learning_rates:0.5" --search_linear=weight_decay=0.002:0.002:1 "$@" --config.dataset=digit_pairs_low --config.num_classes=50 --config.num_epochs=16 --config.eval_every_epochs=16
}
tune softmax -1:0
tune label_smoothing -1:0 --search_linear=objective.label_smoothing.alpha=0.18:0.18:1
tune dropout -1:0 --search_linear=objective.dropout.keep_prob=0.75:0.75:1
tune extra_final_layer_l2 -1:0 --search=objective.extra_final_layer_l2.lambda_final=-3.33:-3.33:1
tune logit_penalty -1:0 --search=objective.logit_penalty.beta=-2.83:-2.83:1
tune logit_normalization -1:0 --search_linear=objective.logit_normalization.temperature=0.11:0.11:1
tune cosine_softmax -1:0 --search_linear=objective.cosine_softmax.temperature=0.1:0.1:1
tune sigmoid -1:0
tune squared_error -1.5:-0.5 --search_linear=objective.squared_error.kappa=6:6:1 --search_linear=objective.squared_error.target_logit=12:12:1
