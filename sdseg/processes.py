"""Work of a launch's main process that concerns all of its processes: either all go on, or all end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState


class FailedOnMainProcess(SystemExit):
    """The main process failed and says why; the other processes just exit."""

    def __init__(self):
        super().__init__(2)


def on_main_process(state: Accelerator | PartialState, action: Callable[[], Any]) -> Any:
    """Runs `action` on the main process while the others wait; what it returns there, None on the others.

    Raises:
        Exception: what `action` raised, on the main process; FailedOnMainProcess on the others.
    """
    from accelerate.utils import broadcast_object_list

    failure: list[bool] = [False]
    raised: Exception | None = None
    result = None
    if state.is_main_process:
        try:
            result = action()
        except Exception as error:
            raised, failure = error, [True]
    broadcast_object_list(failure)
    if raised is not None:
        raise raised
    if failure[0]:
        raise FailedOnMainProcess
    return result


@contextmanager
def on_main_process_within(state: Accelerator | PartialState, context: AbstractContextManager) -> Iterator[Any]:
    """A context that the main process alone enters, for all of them; gives what it gives there, None on the others.

    Raises:
        see `on_main_process`.
    """
    with ExitStack() as stack:
        yield on_main_process(state, lambda: stack.enter_context(context))
