"""What an encoder is."""

from torch import nn


class Encoder(nn.Module):
    """What an encoder has besides; one of a user's own need not be of this class."""

    out_features: int
    """Length of its feature vectors."""
    whole_clip = False
    """It takes all frames of a clip together."""
    loaded = ""
    """What was loaded of its weights, in a line."""
