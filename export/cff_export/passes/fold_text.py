"""The two text vectors of a product become one.

A softmax over two classes is a sigmoid of the difference of their logits:

    softmax(100 z . [t_n t_a])_a = sigmoid(z . (100 t_a - 100 t_n))

so the head multiplies with one vector instead of two, and upsamples one plane instead of two
(upsampling is linear and commutes with the difference).
"""

import numpy as np
from numpy.typing import NDArray

# APRIL-GAN's logit scale of 100; column 0 is normal, column 1 abnormal
TEXT_DIFFERENCE = (-100.0, 100.0)


def text_difference(text: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the vector [C] whose product with a unit feature is the logit of "abnormal".

    Parameters
    ----------
    text : ndarray of shape (C, 2)
        Unit text vectors, column 0 normal, column 1 abnormal.
    """
    return text @ np.array(TEXT_DIFFERENCE)
