"""Class probabilities of clips by a trained network, fused and by modality; labels are not needed."""

import typer

from raygap.commands.predict import main

if __name__ == "__main__":
    typer.run(main)
