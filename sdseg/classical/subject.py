"""The one rule by which every method here that divides a picture into classes decides which are the subject.

A threshold or a clustering tells classes apart, not which of them was meant. Subjects lie within the picture and
backgrounds reach its edge, so we look at the outermost pixels. Calling always the bright or always the dark side
the subject would make the baselines weaker than they are. (Weighing a class's share of the border against its
share of the picture sounds fairer with many classes, and was worse for every method on photos of products.)
"""

import numpy as np

RULE = "classes by their share of the outermost pixels, largest first: the fewest that hold half are background"


def subject_matte(labels: np.ndarray) -> np.ndarray:
    """Class of each pixel, int [H, W] from 0 up -> matte float32 [H, W] of 0 and 1.

    The classes are put in order of how many of the picture's outermost pixels they hold (at a tie the lower
    number first); the fewest from the top that together hold at least half of these pixels are background, all
    else is the subject. Of two classes that is the one which touches the border less, at a tie the second. A
    picture of one class has no subject.
    """
    border = np.ones(labels.shape, bool)
    border[1:-1, 1:-1] = False
    held = np.bincount(labels[border], minlength=labels.max() + 1)
    order = np.argsort(-held, kind="stable")
    enough = np.searchsorted(np.cumsum(held[order]), held.sum() / 2)
    is_subject = np.ones(len(held), np.float32)
    is_subject[order[: enough + 1]] = 0
    return is_subject[labels]
