"""Which condition an encoder gets, and which reference a template is of.

Source "words": the text vectors of a class word, the same for every image.

Source "reference": the features of stage s of one reference, the template. The *medoid* is the
reference that the others are most like,

    r = argmax over i of sum over j != i of m_i . m_j      m: mean features of stage s, unit length

with sums in float64; of references whose sums differ by less than 1e-9, copies for instance and any
two alone, the first. "first" takes the first reference, whatever it shows.

Where parts are set apart from the references, as a reference that is left out, the template is
chosen among the others: an image must not be judged with itself as its template.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cff_runtime.encoder_signature import Condition
from cff_runtime.errors import UsageError

_TIE = 1e-9


def choose_template(choice: str, means: NDArray[np.float32]) -> int:
    """Return which of K references the template is of.

    Parameters
    ----------
    choice : {'medoid', 'first'}
    means : ndarray of shape (K, C), float32
        Mean features of the condition's stage, unit rows.
    """
    if choice == "first":
        return 0
    rows = means.astype(np.float64)
    sums = rows @ rows.sum(axis=0) - np.square(rows).sum(axis=1)
    return int(np.argmax(sums >= sums.max() - _TIE))


class Conditions:
    """The conditions of an enrolment, by key: None before a template is chosen, then its index.

    Parameters
    ----------
    condition : Condition
        Of the manifest.
    of_word : ndarray of the condition's shape, float32, or None
        Needed for source "words", no other source takes notice of it.

    Raises
    ------
    UsageError
        If the class word's condition is missing.
    """

    def __init__(self, condition: Condition, of_word: NDArray[np.float32] | None) -> None:
        self._choice = condition.choice
        self.stage = condition.stage
        if self.stage is not None:
            of_word = np.zeros(condition.shape, np.float32)
        elif of_word is None:
            raise UsageError("`condition` must be that of a class word for this bundle, got none")
        self._start = of_word
        self._templates: list[NDArray[np.float32]] = []
        self._means: list[NDArray[np.float32]] = []

    @property
    def is_chosen(self) -> bool:
        """Whether references are templates; a class word's condition is given."""
        return self.stage is not None

    def add(self, template: NDArray[np.float32], mean: NDArray[np.float32]) -> None:
        """Take in the next reference: features and mean of the condition's stage."""
        self._templates.append(template)
        self._means.append(mean)

    def key(self, references: Sequence[int]) -> int | None:
        """Return the key of the condition that some of the references make."""
        if self._choice is None:
            return None
        means = np.stack([self._means[index] for index in references])
        return references[choose_template(self._choice, means)]

    def values(self, key: int | None) -> NDArray[np.float32]:
        """Return the condition of a key; zeros for None where a template is to be chosen."""
        return self._start if key is None else self._templates[key]
