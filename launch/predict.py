"""Class probabilities of clips by a trained network, fused and by modality; labels are not needed."""

from raygap.commands.app import run

if __name__ == "__main__":
    run("predict")
