"""Fields of configurations, each of which turns on one thing that a step, a batch or a network can have."""

OPTIONS: dict[str, dict[str, object]] = {
    "ramp": {"optimizer.ramp_epochs": 2.5},
    "clip": {"optimizer.clip_norm": 0.5},
    "accumulate": {"optimizer.accumulate": 2, "optimizer.batch_size": 7},
    "average": {"optimizer.ema": 0.8},
    "smoothing": {"labels.smoothing": 0.2},
    "spectrograms": {"augment.time_mask": 0.4, "augment.frequency_mask": 0.4, "augment.masks": 2},
    "sound": {"augment.noise": 0.5, "augment.gain": 6.0},
    "randaugment": {"augment.frames": "randaugment"},
    "trivialaugment": {"augment.frames": "trivialaugment"},
    "dropout": {"model.dropout": 0.3},
    "modality dropout": {"augment.drop_audio": 0.3, "augment.drop_visual": 0.3},
    "mixup": {"augment.mixup": 0.4},
    "mixup apart": {"augment.mixup": 0.4, "augment.mixup_partner": "own"},
    "classes": {"labels.class_weights": 1.0, "labels.draw": "classes"},
}
