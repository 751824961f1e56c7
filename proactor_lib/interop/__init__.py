"""Into the tools that others have: exports, trackers, evaluation elsewhere."""

from proactor_lib import events


def listen(event: events.Event) -> None:
    """The listener that `proactor_lib.events` loads: trackers are told of a run's results, and load then."""
    if isinstance(event, events.Checkpointed | events.TrainingEnded | events.Evaluated | events.Reported):
        from proactor_lib.interop import trackers

        trackers.tell(event)
