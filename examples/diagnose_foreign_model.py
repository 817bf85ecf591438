"""Diagnose a network that raygap has not trained, from a table of what it says of clips.

The table needs, a row a clip, the label and each modality's logits (or probabilities) a class; fused ones are welcome.
"""

import csv

import numpy as np

import raygap

CLASSES = ("dog", "siren", "violin")
random = np.random.default_rng(0)

# In place of this loop: your own network's answers. This one hears well and is nearly blind.
with open("predictions.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["label", *(f"{readout}_{name}" for readout in ("audio", "visual", "fused") for name in CLASSES)])
    for number in range(300):
        truth = np.eye(3)[number % 3]
        audio = random.normal(3 * truth, 1)
        visual = random.normal(0.5 * truth, 1)
        rows.writerow([CLASSES[number % 3], *np.round([*audio, *visual, *(audio + visual)], 4)])

found = raygap.diagnose("predictions.csv", values="logits")
for name, accuracy in found.accuracy.items():
    print(f"{name}: {accuracy:.3f}")
print(*found.verdict, "What to try:", *found.advice, sep="\n* ")
print(f"page: {found.page}; the balanced clips: {found.balanced}")
