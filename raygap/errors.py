"""The errors a user meets, each a single line that says what is wrong and how to mend it."""


class UserError(Exception):
    """Bad input. The message is one line naming the file or field and the mend; the commands print it and exit 2."""


class TrainingDiverged(Exception):
    """The training loss became NaN or infinite: this trial has failed, the sweep goes on."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class TrialFailed(Exception):
    """A trial of several workers has failed by itself: `args` are the reason, in a line, and, of its last
    whole epoch, epoch and epochs_reused.
    """
