"""Search on the demo's clips and read the results, in any folder; a minute on a laptop."""

import raygap

# %% A sweep has the words of the command: `raygap sweep --dataset demo --trials 2 --epochs 3 ...`.
run = raygap.sweep(
    "demo",
    method="gmm_scores",
    trials=2,
    epochs=3,
    seeds=2,
    set={"warmup.epochs": 1, "purify.epochs": 0, "model.width": 8},
    wandb="disabled",
    progress=True,
)

# %% The best configuration, as an object and as best.yaml has it.
print(f"trial {run.best_trial}: validation accuracy {run.best_value:.3f}")
print(run.best.method, run.best.optimizer.lr, run.best_fields["optimizer"])

# %% All trials in a pandas data frame; the study has Optuna's own tools.
print(run.trials[["state", "best_val_accuracy", "epochs", "seconds"]])
print(run.study.best_params)

# %% The honest number: the best configuration on the test split, over fresh seeds.
print(run.test.seeds[["test_accuracy", "test_audio_accuracy", "test_visual_accuracy"]])
print(f"test accuracy {run.test.mean:.3f} ± {run.test.half_width:.3f}; report: {run.report}")

# %% Any earlier sweep is read back from its folder, and its network asked about media files.
again = raygap.load_run(run.folder)
assert again.best == run.best
