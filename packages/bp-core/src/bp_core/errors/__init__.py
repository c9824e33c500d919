"""Every error a user can meet: class = code = fix, declared once, in the file of its code's first word.

That word says who must act: INPUT and CONFIG the user (exit 1), DEP, RUNTIME and STATE the machine or a dependency
(exit 2). What was finished before and stands makes it exit 3. docs/errors.md is generated from these files.
"""

from .base import ERRORS as ERRORS
from .base import PARTLY_DONE as PARTLY_DONE
from .base import BackpropagateError as BackpropagateError
from .config import *
from .dependency import *
from .input import *
from .runtime import *
from .state import *
