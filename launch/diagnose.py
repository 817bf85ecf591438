"""Look into a trained model: its modality gap, what each modality contributes, who makes its answer, what to try."""

from raygap.commands.app import run

if __name__ == "__main__":
    run("diagnose")
