"""Look into a trained model: its modality gap, what each modality contributes, who makes its answer, what to try."""

import typer

from raygap.commands.diagnose import main

if __name__ == "__main__":
    typer.run(main)
