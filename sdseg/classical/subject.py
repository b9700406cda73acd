"""The rule by which all methods that divide a picture into classes decide which of them are the subject.

A threshold or a clustering separates classes without naming the subject. Subjects lie within the picture and
backgrounds reach its edge, so the outermost pixels decide. Always taking the bright or the dark side for the subject
would make the baselines weaker than they are. (Relating a class's share of the border to its share of the picture
sounds fairer with many classes, but was worse for every method on photos of products.)
"""

import numpy as np

RULE = "classes by their share of the outermost pixels, largest first: the fewest that hold half are background"


def subject_matte(labels: np.ndarray) -> np.ndarray:
    """Class of each pixel, int [H, W] from 0 up -> matte float32 [H, W] of 0 and 1.

    The classes are ordered by the number of outermost pixels they hold (ties: the lower number first). The shortest
    run from the top that holds at least half of these pixels is background, the rest is the subject: of two classes
    the one with less of the border, at a tie the second. A picture of one class has no subject.
    """
    border = np.ones(labels.shape, bool)
    border[1:-1, 1:-1] = False
    held = np.bincount(labels[border], minlength=labels.max() + 1)
    order = np.argsort(-held, kind="stable")
    enough = np.searchsorted(np.cumsum(held[order]), held.sum() / 2)
    is_subject = np.ones(len(held), np.float32)
    is_subject[order[: enough + 1]] = 0
    return is_subject[labels]
